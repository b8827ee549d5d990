//! A delta read block by block, in bounded memory.

use std::io::{Read, Seek, SeekFrom};

use super::file::{check_header, max_header_bytes};
use super::{Codec, DeltaError, TensorEntry, TensorTable, compare, finite};
use crate::container::{Header, HeaderError, PREFIX_BYTES, f32_values, header_length};

/// Most values in a block: 256 KiB, so that a reader costs half a megabyte whatever the model.
pub const BLOCK_VALUES: usize = 64 * 1024;

/// Consecutive values of one tensor, all finite.
#[derive(Debug, PartialEq)]
pub struct Block<'a> {
    /// The tensor.
    pub name: &'a str,
    /// Place of the tensor in the table.
    pub tensor: usize,
    /// Index of the first value in the tensor.
    pub offset: usize,
    /// Index of the first value among all values of the delta, in table order.
    pub start: usize,
    /// The values; at most [`BLOCK_VALUES`].
    pub values: &'a [f32],
}

/// Reads a delta from a file against the table it must have.
///
/// Opening reads only the header. Memory: the header (bounded by the table) while opening, then one
/// block.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    table: TensorTable,
    codec: Codec,
    data_start: u64,
    /// Place in the table of the tensor being read.
    tensor: usize,
    /// Values of it that were read.
    offset: usize,
    /// Values of all tensors that were read.
    start: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl<R: Read + Seek> Reader<R> {
    /// Checks the header: version, codec, exactly the tensors of `table` in its order, F32, without
    /// gaps, and a file that ends with the last of them.
    ///
    /// # Errors
    /// [`DeltaError`], naming the tensor or both lengths.
    pub fn open(mut source: R, table: &[TensorEntry]) -> Result<Self, DeltaError> {
        let file_bytes = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        if file_bytes < PREFIX_BYTES as u64 {
            return Err(HeaderError::TooShort(file_bytes).into());
        }
        let mut prefix = [0; PREFIX_BYTES];
        source.read_exact(&mut prefix)?;
        let header_bytes = header_length(prefix, file_bytes, max_header_bytes(table))?;
        // Bounded by the table, which is in memory.
        let mut json = vec![0; header_bytes as usize];
        source.read_exact(&mut json)?;
        let header = Header::parse(&json)?;
        let codec = check_header(&header)?;
        let found = header.entries.iter().map(|e| (e.name.as_str(), &e.shape));
        compare(found, table)?;
        let data_start = PREFIX_BYTES as u64 + header_bytes;
        let want = data_start.saturating_add(header.data_bytes);
        if file_bytes != want {
            return Err(DeltaError::Length {
                got: file_bytes,
                want,
            });
        }
        Ok(Self {
            source,
            table: table.to_vec(),
            codec,
            data_start,
            tensor: 0,
            offset: 0,
            start: 0,
            bytes: Vec::new(),
            values: Vec::new(),
        })
    }

    /// How the values are stored.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The next block, or `None` behind the last.
    ///
    /// # Errors
    /// [`DeltaError::NonFinite`] with name and index, or [`DeltaError::Io`].
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, DeltaError> {
        let size = |t: usize| self.table.get(t).map(TensorEntry::value_count);
        while size(self.tensor) == Some(self.offset) {
            self.tensor += 1;
            self.offset = 0;
        }
        let Some(size) = size(self.tensor) else {
            return Ok(None);
        };
        let count = BLOCK_VALUES.min(size - self.offset);
        self.bytes.resize(count * 4, 0);
        self.source.read_exact(&mut self.bytes)?;
        self.values.clear();
        self.values.extend(f32_values(&self.bytes));
        let name = &self.table[self.tensor].name;
        finite(name, self.offset, &self.values)?;
        let block = Block {
            name,
            tensor: self.tensor,
            offset: self.offset,
            start: self.start,
            values: &self.values,
        };
        self.offset += count;
        self.start += count;
        Ok(Some(block))
    }

    /// Goes back to the first block, for a second pass.
    ///
    /// # Errors
    /// [`DeltaError::Io`] when the source cannot seek.
    pub fn rewind(&mut self) -> Result<(), DeltaError> {
        self.source.seek(SeekFrom::Start(self.data_start))?;
        (self.tensor, self.offset, self.start) = (0, 0, 0);
        Ok(())
    }

    /// Reads all that is left: checks every value and returns the Euclidean norm over them, summed
    /// in f64 in file order; from the start it is [`super::Delta::norm_l2`].
    ///
    /// # Errors
    /// As [`Reader::next_block`].
    pub fn norm_l2(&mut self) -> Result<f64, DeltaError> {
        let mut sum = 0.0;
        while let Some(block) = self.next_block()? {
            sum = block
                .values
                .iter()
                .fold(sum, |s, &v| s + f64::from(v).powi(2));
        }
        Ok(sum.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Cursor;

    use super::*;
    use crate::delta::{Delta, table};
    use crate::model::fixture::{small_model, tcn_model};
    use proptest::prelude::*;

    fn open(bytes: &[u8], table: &[TensorEntry]) -> Result<(), DeltaError> {
        Reader::open(Cursor::new(bytes), table).map(drop)
    }

    fn small() -> (TensorTable, Delta) {
        let base = small_model(1);
        (
            table(&base),
            Delta::between(&base, &small_model(2)).unwrap(),
        )
    }

    #[test]
    fn blocks_are_the_delta_in_table_order_twice() {
        let base = tcn_model(1);
        let delta = Delta::between(&base, &tcn_model(2)).unwrap();
        let table = table(&base);
        let mut reader = Reader::open(Cursor::new(delta.to_bytes()), &table).unwrap();
        assert_eq!(reader.codec(), Codec::F32);
        let want: Vec<f32> = delta
            .tensors
            .values()
            .flat_map(|(_, v)| v.clone())
            .collect();
        for _ in 0..2 {
            let mut got = Vec::new();
            while let Some(block) = reader.next_block().unwrap() {
                assert_eq!(block.start, got.len());
                assert_eq!(block.name, table[block.tensor].name);
                let (_, values) = &delta.tensors[block.name];
                let end = block.offset + block.values.len();
                assert_eq!(block.values, &values[block.offset..end]);
                got.extend_from_slice(block.values);
            }
            assert_eq!(got, want);
            reader.rewind().unwrap();
        }
        assert_eq!(
            reader.norm_l2().unwrap().to_bits(),
            delta.norm_l2().to_bits()
        );
    }

    #[test]
    fn large_tensors_come_in_bounded_blocks() {
        let count = 2 * BLOCK_VALUES + 5;
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let delta = Delta {
            tensors: BTreeMap::from([("w".into(), (vec![count], values))]),
        };
        let table = vec![TensorEntry {
            name: "w".into(),
            shape: vec![count],
        }];
        let mut reader = Reader::open(Cursor::new(delta.to_bytes()), &table).unwrap();
        let mut seen = Vec::new();
        while let Some(b) = reader.next_block().unwrap() {
            seen.push((b.offset, b.values.len(), b.values[0]));
        }
        let (n, two) = (BLOCK_VALUES, 2 * BLOCK_VALUES);
        assert_eq!(seen, [(0, n, 0.0), (n, n, n as f32), (two, 5, two as f32)]);
    }

    #[test]
    fn a_non_finite_value_is_named_with_its_index_in_the_tensor() {
        let count = BLOCK_VALUES + 10;
        let mut values = vec![0.0; count];
        values[BLOCK_VALUES + 3] = f32::NEG_INFINITY;
        let delta = Delta {
            tensors: BTreeMap::from([("w".into(), (vec![count], values))]),
        };
        let table = vec![TensorEntry {
            name: "w".into(),
            shape: vec![count],
        }];
        let mut reader = Reader::open(Cursor::new(delta.to_bytes()), &table).unwrap();
        let want = DeltaError::NonFinite {
            name: "w".into(),
            index: BLOCK_VALUES + 3,
        };
        assert_eq!(reader.norm_l2(), Err(want));
    }

    #[test]
    fn tensors_other_than_the_tables_are_refused_when_opened() {
        let (table, delta) = small();
        open(&delta.to_bytes(), &table).unwrap();
        let mut other = delta.clone();
        other.tensors.remove("head.weight");
        let error = open(&other.to_bytes(), &table).unwrap_err();
        assert!(matches!(error, DeltaError::Missing { name, .. } if name == "head.weight"));
        let mut other = delta.clone();
        other.tensors.insert("a".into(), (vec![1], vec![0.0]));
        let error = open(&other.to_bytes(), &table).unwrap_err();
        assert!(matches!(error, DeltaError::Unexpected { name } if name == "a"));
        // As many values, another shape.
        let mut other = delta.clone();
        let (_, values) = other.tensors["head.weight"].clone();
        other
            .tensors
            .insert("head.weight".into(), (vec![4, 2], values));
        let error = open(&other.to_bytes(), &table).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor `head.weight` has shape [4, 2], the base wants [2, 4]"
        );
    }

    #[test]
    fn tensors_in_another_order_or_of_another_type_are_refused() {
        use crate::container::{self, Dtype, Source};
        let table: TensorTable = ["a", "b"]
            .map(|name| TensorEntry {
                name: name.into(),
                shape: vec![1],
            })
            .into();
        let file = |names: [&str; 2], dtype| {
            let metadata = [
                ("lamplight.codec", "f32"),
                ("lamplight.format_version", "1"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
            let tensors = names.map(|name| Source {
                name,
                dtype,
                shape: &[1],
                bytes: vec![0; 4],
            });
            container::write(&metadata.into(), &tensors)
        };
        open(&file(["a", "b"], Dtype::F32), &table).unwrap();
        let error = open(&file(["b", "a"], Dtype::F32), &table).unwrap_err();
        assert!(matches!(error, DeltaError::Order { got, want } if got == "b" && want == "a"));
        let error = open(&file(["a", "b"], Dtype::U32), &table).unwrap_err();
        assert!(matches!(error, DeltaError::Type { name } if name == "a"));
    }

    #[test]
    fn longer_and_shorter_files_are_refused_when_opened() {
        let (table, delta) = small();
        let mut bytes = delta.to_bytes();
        bytes.push(0);
        let (got, want) = (bytes.len() as u64, bytes.len() as u64 - 1);
        assert_eq!(open(&bytes, &table), Err(DeltaError::Length { got, want }));
        for end in 0..bytes.len() - 1 {
            assert!(
                open(&bytes[..end], &table).is_err(),
                "{end} bytes were accepted"
            );
        }
    }

    #[test]
    fn a_header_longer_than_the_table_allows_is_not_read() {
        let (table, _) = small();
        let mut file = (8_u64 << 20).to_le_bytes().to_vec();
        file.resize(9 << 20, b' ');
        let error = open(&file, &table).unwrap_err();
        assert!(matches!(error, DeltaError::Header(HeaderError::Length { max, .. }) if max < 8192));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn altered_bytes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (table, delta) = small();
            let mut bytes = delta.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let norm = Reader::open(Cursor::new(bytes), &table).and_then(|mut r| r.norm_l2());
            prop_assert!(norm.is_err() || norm.is_ok_and(f64::is_finite));
        }
    }
}

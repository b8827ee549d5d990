use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::source::{SampleSource, SourceError, SourceSpec};

fn open(spec: &str) -> Result<Box<dyn SampleSource>, SourceError> {
    spec.parse::<SourceSpec>().expect(spec).open()
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

/// `n` rows whose first value is the row's number and whose second is its negative.
fn rows(from: usize, n: usize, rest: &str) -> String {
    (from..from + n).fold(String::new(), |mut text, i| {
        writeln!(text, "{i},-{i},{rest}").expect("memory");
        text
    })
}

#[test]
fn windows_lie_inside_one_label_and_one_group_and_skip_what_has_no_label() {
    let dir = tempfile::tempdir().expect("dir");
    let text = format!(
        "a,b,who,label\n{}{}{}{}",
        rows(0, 9, "7,walk"),
        rows(9, 1, "7,"),
        rows(10, 5, "7,sit"),
        rows(15, 4, "8,sit")
    );
    let at = file(dir.path(), "t.csv", &text);
    let source = open(&format!(
        "csv:{at}?window=4&stride=2&group=who&rate_hz=20&split=all"
    ))
    .expect("opened");
    let info = source.describe();
    assert_eq!(
        (info.window.as_slice(), info.sampling_rate_hz),
        (&[2, 4][..], Some(20.0))
    );
    assert_eq!(
        (info.classes, info.channels),
        (
            vec!["sit".into(), "walk".into()],
            vec!["a".into(), "b".into()]
        )
    );
    let samples = source.held_out().expect("read");
    let first: Vec<f32> = (0..samples.len()).map(|i| samples.sample(i)[0]).collect();
    assert_eq!(first, [0.0, 2.0, 4.0, 10.0, 15.0]);
    assert_eq!(samples.y, [1, 1, 1, 0, 0]);
    assert_eq!(
        samples.sample(1),
        [2.0, 3.0, 4.0, 5.0, -2.0, -3.0, -4.0, -5.0]
    );
    let one = open(&format!(
        "csv:{at}?window=4&stride=2&group=who&groups=8&columns=b&split=all"
    ));
    let one = one.expect("opened").held_out().expect("read");
    assert_eq!(
        (one.y.as_slice(), one.sample(0)),
        (&[0][..], &[-15.0, -16.0, -17.0, -18.0][..])
    );
}

#[test]
fn no_window_to_train_on_shares_a_row_with_a_held_out_one() {
    let dir = tempfile::tempdir().expect("dir");
    let text = format!("a,b,label\n{}{}", rows(0, 103, "x"), rows(200, 90, "y"));
    let at = file(dir.path(), "t.csv", &text);
    let source = open(&format!("csv:{at}?window=10&stride=3")).expect("opened");
    let (train, held_out) = (
        source.train().expect("train"),
        source.held_out().expect("rest"),
    );
    assert!(train.len() > 20 && held_out.len() > 10);
    for i in 0..train.len() {
        for j in 0..held_out.len() {
            let apart = held_out.sample(j)[0] - train.sample(i)[0];
            assert!(apart.abs() >= 10.0, "{i} {j}");
        }
    }
}

#[test]
fn a_wide_table_without_titles_holds_a_window_per_row() {
    let dir = tempfile::tempdir().expect("dir");
    let at = file(
        dir.path(),
        "t.csv",
        "10\t1\t2\t3\t4\t5\t6\n9\t7\t8\t9\t10\t11\t12\n",
    );
    let spec = format!("csv:{at}?wide=2&label=1&header=no&separator=tab&split=all");
    let samples = open(&spec).expect("opened").held_out().expect("read");
    assert_eq!(samples.shape, [2, 3]);
    // Whole numbers are in their own order, not the alphabet's.
    assert_eq!(
        (samples.classes, samples.y),
        (vec!["9".into(), "10".into()], vec![1, 0])
    );
    assert_eq!(samples.x[..6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let odd = open(&format!("csv:{at}?wide=4&label=1&header=no&separator=tab"));
    assert!(odd.expect_err("odd").to_string().contains("no 4 channels"));
}

#[test]
fn quotes_blanks_byte_order_marks_and_line_ends_of_all_kinds_are_read() {
    let dir = tempfile::tempdir().expect("dir");
    let text = "\u{feff}\"a\", label \r\n 1 ,\"up, stairs\"\r\n\"2e0\",\"up, stairs\"\r\n";
    let at = file(dir.path(), "t.csv", text);
    let spec = format!("csv:{at}?window=2&split=all");
    let samples = open(&spec).expect("opened").held_out().expect("read");
    assert_eq!(
        (samples.x, samples.classes),
        (vec![1.0, 2.0], vec!["up, stairs".into()])
    );

    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).expect("memory");
    std::fs::write(dir.path().join("t.csv.gz"), gz.finish().expect("memory")).expect("written");
    let both = open(&format!("csv:{}?window=2&split=all", dir.path().display()));
    assert_eq!(
        both.expect("opened").held_out().expect("read").x,
        [1.0, 2.0, 1.0, 2.0]
    );
}

#[test]
fn recordings_are_dealt_whole_and_overlapping_windows_of_one_are_not_torn_apart() {
    let dir = tempfile::tempdir().expect("dir");
    for who in 0..6 {
        let text = format!("a,b,label\n{}", rows(100 * who, 40, "x"));
        file(dir.path(), &format!("{who}.csv"), &text);
    }
    let at = dir.path().display().to_string();
    let mut seen = Vec::new();
    for part in ["cloud", "0", "1"] {
        let spec = format!("csv:{at}?window=10&stride=5&part={part}&parts=2&cloud=0.3&split=all");
        let samples = open(&spec).expect("opened").held_out().expect("read");
        let mut who: Vec<u32> = (0..samples.len())
            .map(|i| samples.sample(i)[0] as u32 / 100)
            .collect();
        who.dedup();
        assert_eq!(who.len(), 2, "{part}: {who:?}");
        assert_eq!(samples.len(), 14);
        seen.extend(who);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);

    let fault = |spec: String| open(&spec).expect_err("refused").to_string();
    let many = fault(format!("csv:{at}?window=10&part=0&parts=7"));
    assert!(many.contains("6 groups cannot be dealt to 7"), "{many}");
    let skewed = fault(format!("csv:{at}?window=10&part=0&parts=2&dirichlet=0.3"));
    assert!(skewed.contains("dirichlet=0.3 has no meaning"), "{skewed}");
    let torn = fault(format!("csv:{at}/0.csv?window=10&stride=5&part=0&parts=2"));
    assert!(
        torn.contains("every 5 overlap") && torn.contains("stride=10"),
        "{torn}"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_the_remedy() {
    let dir = tempfile::tempdir().expect("dir");
    for (text, options, says) in [
        ("", "", "line 1: the table is empty"),
        (
            "a,b\n1,2\n",
            "",
            "line 1: there is no column `label`, but `a`, `b`",
        ),
        ("a;label\n1;x\n", "", "`separator=`"),
        ("a,label\n1,x\n", "&group=who", "no column `who`"),
        ("a,label\n1,x\n", "&columns=a,3", "no column `3`"),
        ("a,label\n1,x\n", "&columns=0", "no column `0`"),
        ("label\nx\n", "", "line 1: 0 columns of values"),
        ("a,label\n1,x\n2\n", "", "line 3: 1 fields, expected 2"),
        (
            "a,label\n1,x\n,x\n",
            "",
            "line 3: `a` is ``, expected a finite number",
        ),
        ("a,label\n1,x\nNaN,x\n", "", "line 3: `a` is `NaN`"),
        ("a,label\n1,x\n1e39,x\n", "", "line 3: `a` is `1e39`"),
        ("a,label\n1,x\n\n2,x\n0x1,x\n", "", "line 5: `a` is `0x1`"),
        ("a,label\n1,x\n2,y\n", "", "no window in 2 rows"),
        (
            "a,b,label\n1,1,x\n2,1,x\n",
            "&group=a&groups=9",
            "no group `9`; it has 1, 2",
        ),
    ] {
        let at = file(dir.path(), "t.csv", text);
        let e = open(&format!("csv:{at}?window=2{options}")).expect_err(text);
        let e = e.to_string();
        assert!(e.contains("t.csv") && e.contains(says), "{text:?}: {e}");
    }
    std::fs::write(dir.path().join("t.csv"), b"a,label\n1,\xff\n").expect("written");
    let at = dir.path().join("t.csv");
    let e = open(&format!("csv:{}", at.display())).expect_err("no text");
    assert!(
        e.to_string().contains("line 2: bytes that are no text"),
        "{e}"
    );
    let e = open(&format!("csv:{}/none.csv", dir.path().display())).expect_err("none");
    assert!(e.to_string().contains("none.csv"), "{e}");
    let many: String = (0..2000).map(|i| format!("1,{i}\n")).collect();
    let at = file(dir.path(), "t.csv", &format!("a,label\n{many}"));
    let e = open(&format!("csv:{at}")).expect_err("many").to_string();
    assert!(
        e.contains("line 1002") && e.contains("there are 1000 labels already"),
        "{e}"
    );
}

#[test]
fn a_row_without_an_end_is_not_kept_in_memory() {
    let endless = std::io::Read::chain(&b"a,label\n1,\""[..], std::io::repeat(b'\n'));
    let spec = crate::source::CsvSpec::default();
    let e = super::parse(endless, &spec)
        .expect_err("endless")
        .to_string();
    assert!(e.contains("longer than 1048576 bytes"), "{e}");
}

#[test]
fn a_table_that_changes_while_it_is_used_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let at = file(
        dir.path(),
        "t.csv",
        &format!("a,b,label\n{}", rows(0, 40, "x")),
    );
    let source = open(&format!("csv:{at}?window=10&split=all")).expect("opened");
    file(
        dir.path(),
        "t.csv",
        &format!("a,b,label\n{}", rows(0, 30, "x")),
    );
    let e = source.held_out().expect_err("changed").to_string();
    assert!(e.contains("changed while it was read"), "{e}");
}

#[test]
fn a_label_that_no_class_could_be_named_by_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("dir");
    let long = "a".repeat(129);
    for label in ["wa\u{7}lk", long.as_str()] {
        let text = format!("x,label\n1,sit\n2,{label}\n");
        let at = file(dir.path(), "t.csv", &text);
        let fault = open(&format!("csv:{at}?window=1"))
            .expect_err("refused")
            .to_string();
        assert!(
            fault.contains("line 3") && fault.contains("is no name"),
            "{fault}"
        );
    }
}

#[test]
fn more_windows_than_a_file_can_hold_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("t.csv.gz");
    let mut zip = flate2::write::GzEncoder::new(
        std::fs::File::create(&at).expect("made"),
        flate2::Compression::best(),
    );
    zip.write_all("1,a\n".repeat(15_000).as_bytes())
        .expect("zipped");
    zip.finish().expect("zipped");
    let spec = format!("csv:{}?window=1&header=no&label=2", at.display());
    let fault = open(&spec).expect_err("a bomb").to_string();
    assert!(fault.contains("there are more than"), "{fault}");
}

#[test]
fn more_windows_than_files_of_their_size_may_hold_end_with_the_option_to_change() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("t.csv.gz");
    // Each row of four bytes would be a window, and a byte of the file holds more than eight of them.
    let text = format!("x,label\n{}", "1,a\n".repeat(12_000));
    let gz = std::fs::File::create(&at).expect("made");
    let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::best());
    gz.write_all(text.as_bytes()).expect("written");
    gz.finish().expect("written");
    let packed = at.metadata().expect("there").len();
    assert!(1024 + 8 * packed < 12_000, "{packed} bytes");
    let told = |options: &str| {
        let e = open(&format!("csv:{}?{options}", at.display())).expect_err(options);
        e.to_string()
    };
    let steps = told("window=4&stride=1&split=all");
    let wide = told("wide=1&split=all");
    let fault = format!("more than {} windows", 1024 + 8 * packed);
    for (e, remedy) in [
        (steps, "raise `stride=`, or unpack the files"),
        (wide, "; unpack the files"),
    ] {
        assert!(e.contains(&fault) && e.contains(remedy), "{e}");
        assert!(!e.contains("correct the line"), "{e}");
    }
    let fewer = format!(
        "csv:{}?window=4&stride=8&split=all&group=label",
        at.display()
    );
    assert!(open(&fewer).is_ok());
}

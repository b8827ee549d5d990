//! The source as a whole: the real recordings, and small broken ones.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::source::SourceSpec;
use crate::source::real_data::real_data;

fn real() -> Option<PathBuf> {
    real_data("har_hapt")
}

fn open(dir: &Path, options: &str) -> Result<Box<dyn SampleSource>, SourceError> {
    let spec = format!("hapt:{}?{options}", dir.display());
    spec.parse::<SourceSpec>().expect("a valid spec").open()
}

fn counts(samples: &Samples) -> [usize; 6] {
    let mut counts = [0; 6];
    for &class in &samples.y {
        counts[class as usize] += 1;
    }
    counts
}

#[test]
fn the_real_recordings_hold_as_many_windows_as_their_readme_says() {
    let Some(dir) = real() else { return };
    let recordings = tables::read_recordings(&dir).expect("recordings");
    let mut everybody: Vec<u32> = recordings.iter().map(|r| r.subject).collect();
    everybody.dedup();
    assert_eq!(everybody.len(), 25);
    let list: Vec<String> = everybody.iter().map(ToString::to_string).collect();
    let options = format!("subjects={}&split=all", list.join(","));
    let source = open(&dir, &options).expect("opens");
    assert!(source.train().expect("train").is_empty());
    let all = source.held_out().expect("held out");
    assert_eq!(all.len(), 8679);
    assert_eq!(counts(&all), [1404, 1285, 1169, 1532, 1642, 1647]);
    let one = |subject: u32| {
        let source = open(&dir, &format!("subject={subject}&split=all")).expect("opens");
        source.held_out().expect("held out").len()
    };
    let sizes: Vec<usize> = everybody.into_iter().map(one).collect();
    assert_eq!(sizes.iter().min(), Some(&298));
    assert_eq!(sizes.iter().max(), Some(&413));
}

#[test]
fn a_real_persons_windows_are_parted_seven_to_three_in_physical_units() {
    let Some(dir) = real() else { return };
    let source = open(&dir, "subject=5").expect("opens");
    let (train, held) = (
        source.train().expect("train"),
        source.held_out().expect("held"),
    );
    let whole = open(&dir, "subject=5&split=all").expect("opens");
    let all = counts(&whole.held_out().expect("all"));
    for (class, &n) in all.iter().enumerate() {
        let early = n * 7 / 10;
        assert_eq!(counts(&held)[class], n - early);
        assert!([early - 1, early].contains(&counts(&train)[class]));
    }
    // At rest the acceleration's length is one g; lying, standing and sitting are at rest.
    for i in (0..train.len()).filter(|&i| train.y[i] >= 3) {
        let window = train.sample(i);
        let squares = (0..3).map(|axis| window[axis * LENGTH].powi(2));
        let g = squares.sum::<f32>().sqrt();
        assert!((0.7..1.4).contains(&g), "{g} g");
    }
    let info = source.describe();
    assert_eq!(info.window, [6, 128]);
    assert!(!info.simulated);
}

#[test]
fn no_real_window_to_train_on_shares_a_sample_with_a_held_out_one() {
    let Some(dir) = real() else { return };
    let recordings = tables::read_recordings(&dir).expect("recordings");
    let segments = tables::read_segments(&dir, &recordings).expect("segments");
    for subject in recordings.iter().map(|r| r.subject) {
        let own: Vec<Segment> = segments
            .iter()
            .filter(|s| s.subject == subject)
            .cloned()
            .collect();
        let (train, held_out) = windows::part(&windows::cut(&own));
        for early in &train {
            for late in &held_out {
                let same = early.recording == late.recording;
                assert!(
                    !same
                        || early.start + LENGTH <= late.start
                        || late.start + LENGTH <= early.start
                );
                let key = |p: &Place| (p.recording, p.start);
                assert!(early.class != late.class || key(early) < key(late));
            }
        }
    }
}

#[test]
fn the_real_draws_part_all_people() {
    let Some(dir) = real() else { return };
    for d in 1..=3 {
        let draw = draws(&dir, d).expect("a draw");
        assert_eq!(
            (draw.cloud.len(), draw.node.len(), draw.unseen.len()),
            (4, 12, 9)
        );
    }
    assert_eq!(draws(&dir, 1).expect("draw 1").cloud, [5, 9, 22, 25]);
    let error = draws(&dir, 4).expect_err("no draw 4").to_string();
    assert!(error.contains("no draw 4; it has [1, 2, 3]"), "{error}");
}

/// A small directory: subject 1 walks (300 rows) and sits (300 rows), subject 2 lies (200 rows).
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = Self(tempfile::tempdir().expect("a directory"));
        dir.write(
            "experiments.csv",
            b"experiment,subject,first_sample,n_samples\n1,1,0,600\n2,2,600,200\n",
        );
        dir.write(
            "labels.csv",
            b"experiment,subject,activity,start_sample,end_sample\n1,1,1,1,300\n1,1,4,301,600\n2,2,6,1,200\n",
        );
        dir.write("draws.csv", b"draw,role,subject\n1,cloud,1\n1,node,2\n");
        dir.write(signals::FILE, &Self::compressed());
        dir
    }

    fn compressed() -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        for row in 0..800_i16 {
            for channel in 0..6 {
                // Not compressible, so that a cut file lacks rows.
                let value = (i32::from(row) * 7919 + channel * 31) % 32_749;
                gz.write_all(&(value as i16).to_le_bytes()).expect("memory");
            }
        }
        gz.finish().expect("memory")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect("a file");
    }

    fn error(&self, options: &str) -> String {
        open(self.0.path(), options)
            .map(|_| ())
            .expect_err("must be refused")
            .to_string()
    }
}

#[test]
fn rows_become_windows_by_channel_in_physical_units() {
    let dir = Small::new();
    let source = open(dir.0.path(), "subject=2&split=all").expect("opens");
    let samples = source.held_out().expect("held out");
    assert_eq!((samples.len(), &samples.y), (2, &vec![5, 5]));
    let value = |row: i32, channel: i32| ((row * 7919 + channel * 31) % 32_749) as f32;
    for (window, first) in [(0, 600), (1, 664)] {
        let x = samples.sample(window);
        assert!((x[5] - value(first + 5, 0) / 720.0).abs() < 1e-4);
        assert!((x[4 * LENGTH + 9] - value(first + 9, 4) * 0.000_305_432_5).abs() < 1e-4);
    }
}

#[test]
fn people_are_joined_in_the_order_asked_for_and_classes_can_be_left_out() {
    let dir = Small::new();
    let source = open(dir.0.path(), "subjects=2,1&split=all").expect("opens");
    assert_eq!(
        source.held_out().expect("held out").y,
        [5, 5, 0, 0, 0, 3, 3, 3]
    );
    let some = open(
        dir.0.path(),
        "subjects=2,1&split=all&classes=SITTING,LAYING",
    )
    .expect("opens");
    let some = some.held_out().expect("held out");
    assert_eq!(some.y, [5, 5, 3, 3, 3]);
    assert_eq!(some.classes.len(), 6);
}

#[test]
fn a_truncated_or_corrupt_stream_is_refused_by_name_and_row() {
    let whole = Small::compressed();
    let dir = Small::new();
    dir.write(signals::FILE, &whole[..whole.len() / 2]);
    let error = dir.error("subject=2");
    assert!(error.contains("signals_i16le.bin.gz"), "{error}");
    assert!(
        error.contains("of the 800 needed") && error.contains("sha256"),
        "{error}"
    );

    dir.write(signals::FILE, b"not gzip at all");
    // Fifteen bytes are one row and a bit.
    assert!(dir.error("subject=1").contains("breaks off in row 1"));

    std::fs::remove_file(dir.0.path().join(signals::FILE)).expect("removed");
    assert!(dir.error("subject=1").contains("cannot read"));
}

#[test]
fn a_stream_shorter_than_its_table_is_refused() {
    let dir = Small::new();
    dir.write(
        "experiments.csv",
        b"experiment,subject,first_sample,n_samples\n1,1,0,600\n2,2,600,8000000\n",
    );
    dir.write(
        "labels.csv",
        b"experiment,subject,activity,start_sample,end_sample\n2,2,6,1,8000000\n",
    );
    let error = dir.error("subject=2");
    assert!(
        error.contains("row 800 of the 8000600 needed: the stream ends"),
        "{error}"
    );
}

#[test]
fn a_malformed_table_is_refused_by_file_and_line() {
    let experiments = "experiment,subject,first_sample,n_samples\n";
    let labels = "experiment,subject,activity,start_sample,end_sample\n1,1,1,1,300\n";
    for (file, text, says) in [
        (
            "experiments.csv",
            "a,b\n1,2\n".to_owned(),
            "line 1: columns",
        ),
        ("experiments.csv", String::new(), "line 1: columns []"),
        (
            "experiments.csv",
            format!("{experiments}1,1,0\n"),
            "line 2: 3 fields, expected 4",
        ),
        (
            "experiments.csv",
            format!("{experiments}1,1,0,many\n"),
            "line 2: `n_samples` is `many`",
        ),
        (
            "experiments.csv",
            format!("{experiments}1,1,0,9999999999\n"),
            "from 1 to 8640000",
        ),
        (
            "experiments.csv",
            format!("{experiments}1,1,0,9\n1,2,9,9\n"),
            "line 3: experiment 1 is listed twice",
        ),
        (
            "experiments.csv",
            format!("{experiments}1,1,0,9\n2,2,5,9\n"),
            "line 3: recording begins at row 5",
        ),
        (
            "labels.csv",
            format!("{labels}1,1,13,301,600\n"),
            "line 3: `activity` is `13`",
        ),
        (
            "labels.csv",
            format!("{labels}1,1,4,301,601\n"),
            "line 3: `end_sample` is `601`",
        ),
        (
            "labels.csv",
            format!("{labels}1,1,4,500,400\n"),
            "line 3: `start_sample` is `500`",
        ),
        (
            "labels.csv",
            format!("{labels}1,2,4,301,600\n"),
            "line 3: there is no recording of experiment 1 of subject 2",
        ),
        (
            "labels.csv",
            format!("{labels}1,1,4,300,600\n"),
            "line 3: segment overlaps the one in line 2",
        ),
        (
            "labels.csv",
            format!("{labels}1,1,-4,301,600\n"),
            "line 3: `activity` is `-4`",
        ),
    ] {
        let dir = Small::new();
        dir.write(file, text.as_bytes());
        let error = dir.error("subject=1");
        assert!(
            error.contains(file) && error.contains(says),
            "{text:?}: {error}"
        );
        assert!(error.contains("fetch the file again"), "{error}");
    }
    let dir = Small::new();
    dir.write(
        "labels.csv",
        b"experiment,subject,activity,start_sample,end_sample\n\xff,1,1,1,2\n",
    );
    assert!(
        dir.error("subject=1")
            .contains("line 2: bytes that are no text")
    );
}

#[test]
fn an_enormous_table_is_not_read() {
    let dir = Small::new();
    dir.write("labels.csv", &vec![b'1'; (4 << 20) + 1]);
    let error = dir.error("subject=1");
    assert!(
        error.contains("4194305 bytes, more than the 4194304"),
        "{error}"
    );
}

#[test]
fn an_unknown_subject_is_refused_with_those_that_are_there() {
    let error = Small::new().error("subject=9");
    assert!(
        error.contains("knows no subject 9; it has [1, 2]"),
        "{error}"
    );
}

#[test]
fn a_draw_with_somebody_twice_or_an_unknown_role_is_refused() {
    let dir = Small::new();
    let draw = draws(dir.0.path(), 1).expect("a draw");
    assert_eq!(
        (draw.cloud, draw.node, draw.unseen),
        (vec![1], vec![2], vec![])
    );
    dir.write("draws.csv", b"draw,role,subject\n1,cloud,1\n1,node,1\n");
    let error = draws(dir.0.path(), 1).expect_err("twice").to_string();
    assert!(
        error.contains("line 3: subject 1 is in draw 1 twice"),
        "{error}"
    );
    dir.write("draws.csv", b"draw,role,subject\n1,king,1\n");
    let error = draws(dir.0.path(), 1).expect_err("role").to_string();
    assert!(error.contains("line 2: `role` is `king`"), "{error}");
}

#[test]
fn skew_names_classes_of_the_list() {
    let names = skew(3, 3);
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| CLASSES.contains(name)));
}

/// Lays out what `dir` has of these people the way their publisher does.
fn publish(dir: &Path, subjects: &[u32]) -> tempfile::TempDir {
    let out = tempfile::tempdir().expect("a directory");
    let raw = out.path().join("RawData");
    std::fs::create_dir(&raw).expect("made");
    let recordings: Vec<Recording> = tables::read_recordings(dir)
        .expect("recordings")
        .into_iter()
        .filter(|r| subjects.contains(&r.subject))
        .collect();
    let spans: Vec<_> = recordings.iter().map(|r| (r.first_row, r.rows)).collect();
    let rows = signals::read_spans(dir, &spans).expect("signals");
    for (r, rows) in recordings.iter().zip(rows) {
        for (sensor, first, step) in [("acc", 0, 1.0 / 720.0), ("gyro", 3, 0.000_305_432_505_2)] {
            let mut text = String::new();
            for row in &rows {
                let [x, y, z] = [0, 1, 2].map(|i| f64::from(row[first + i]) * step);
                // The archive writes both forms.
                writeln!(text, "{x:.15} {y:e} {z:.15} ").expect("memory");
            }
            let name = format!("{sensor}_exp{:02}_user{:02}.txt", r.experiment, r.subject);
            std::fs::write(raw.join(name), text).expect("written");
        }
    }
    let labels = std::fs::read_to_string(dir.join("labels.csv")).expect("labels");
    let labels: String = labels
        .lines()
        .skip(1)
        .filter(|line| {
            let subject = line.split(',').nth(1).expect("five fields");
            subjects.contains(&subject.parse().expect("a number"))
        })
        .fold(String::new(), |text, line| {
            text + &line.replace(',', " ") + "\n"
        });
    std::fs::write(raw.join("labels.txt"), labels).expect("written");
    let names: String = (1..)
        .zip(CLASSES.iter().chain(&["STAND_TO_SIT"]))
        .fold(String::new(), |text, (n, name)| {
            format!("{text}{n} {name}  \n")
        });
    std::fs::write(out.path().join("activity_labels.txt"), names).expect("written");
    out
}

#[test]
fn both_layouts_give_the_same_windows_for_the_same_recordings() {
    let Some(dir) = real() else { return };
    let archive = publish(&dir, &[9, 5]);
    for options in [
        "subjects=9,5",
        "subject=5&classes=SITTING,WALKING",
        "subject=9&split=all",
    ] {
        let stored = open(&dir, options).expect("opens");
        let published = open(archive.path(), options).expect("opens");
        assert_eq!(stored.describe().window, published.describe().window);
        let pair = |s: &dyn SampleSource| (s.train().expect("train"), s.held_out().expect("held"));
        assert_eq!(pair(&*stored), pair(&*published), "{options}");
    }
    let raw = open(&archive.path().join("RawData"), "subject=5&split=all").expect("opens");
    let whole = open(&dir, "subject=5&split=all").expect("opens");
    assert_eq!(
        raw.held_out().expect("held"),
        whole.held_out().expect("held")
    );
}

#[test]
fn a_made_up_recording_is_the_same_in_both_layouts_and_its_faults_are_named() {
    let dir = Small::new();
    let archive = publish(dir.0.path(), &[1, 2]);
    let samples = |dir: &Path| {
        let source = open(dir, "subjects=2,1&split=all").expect("opens");
        source.held_out().expect("held out")
    };
    assert_eq!(samples(archive.path()), samples(dir.0.path()));

    let raw = archive.path().join("RawData");
    let fault = |file: &str, text: &str| {
        let file = raw.join(file);
        let before = std::fs::read(&file).expect("there");
        std::fs::write(&file, text).expect("written");
        let e = open(archive.path(), "subject=2")
            .map(|_| ())
            .expect_err("refused");
        std::fs::write(&file, before).expect("written");
        e.to_string()
    };
    for (file, text, says) in [
        (
            "acc_exp02_user02.txt",
            "1 2 3\n1 2\n",
            "line 2: 2 numbers, expected 3",
        ),
        (
            "acc_exp02_user02.txt",
            "1 2 3\n\n1 2 x\n",
            "line 3: field 3 is `x`",
        ),
        (
            "acc_exp02_user02.txt",
            "1 2 46\n",
            "field 3 is `46`, expected three numbers up to 45.5",
        ),
        ("gyro_exp02_user02.txt", "1 2 NaN\n", "field 3 is `NaN`"),
        (
            "gyro_exp02_user02.txt",
            "1 2 3\n",
            "1 rows, but `labels.txt` has a segment up to row 200",
        ),
        ("labels.txt", "2 2 6 1\n", "line 1: 4 fields, expected 5"),
        (
            "labels.txt",
            "3 2 6 1 5\n",
            "no recording of experiment 3 of subject 2",
        ),
        (
            "../activity_labels.txt",
            "1 WALKING\n2 RUNNING\n",
            "line 2: activity 2 is `RUNNING`",
        ),
    ] {
        let e = fault(file, text);
        let file = file.rsplit('/').next().expect("a name");
        assert!(e.contains(file) && e.contains(says), "{e}");
    }
    let long = fault("acc_exp02_user02.txt", &" ".repeat(5000));
    assert!(
        long.contains("line 1: the line is longer than 1024"),
        "{long}"
    );
    std::fs::remove_file(raw.join("gyro_exp02_user02.txt")).expect("removed");
    let e = open(archive.path(), "subject=2")
        .map(|_| ())
        .expect_err("gone")
        .to_string();
    assert!(
        e.contains("gyro_exp02_user02.txt") && e.contains("RawData"),
        "{e}"
    );
}

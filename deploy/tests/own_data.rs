//! The demo on a person's own data: images in folders, a table of readings; and what it refuses.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn demo(data: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(["demo", "--data", data])
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let line = out.lines().last().expect("a line of JSON");
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Noise that is the same every time.
fn noise(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 24
    }
}

/// `n` small photographs a class, each class of one color, in sizes and formats of all kinds.
fn photographs(dir: &Path, n: u32) {
    for (class, color) in [("blue", 2), ("green", 1), ("red", 0)] {
        let folder = dir.join(class);
        fs::create_dir_all(&folder).expect("made");
        for i in 0..n {
            let mut noise = noise(1000 * color + i);
            let image = image::RgbImage::from_fn(30 + i % 7, 28 + i % 5, |_, _| {
                let mut pixel = [0, 0, 0].map(|_| (noise() / 3) as u8);
                pixel[color as usize] += 120;
                image::Rgb(pixel)
            });
            let extension = if i % 2 == 0 { "png" } else { "jpg" };
            image
                .save(folder.join(format!("{i}.{extension}")))
                .expect("saved");
        }
    }
}

#[test]
fn a_folder_of_images_is_learned_by_a_fleet_with_skewed_shares() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = dir.path().join("photographs");
    photographs(&data.join("train"), 28);
    photographs(&data.join("test"), 5);
    let kept = dir.path().join("kept").display().to_string();
    let data = data.display().to_string();
    let short = [
        "--nodes",
        "2",
        "--rounds",
        "1",
        "--epochs",
        "1",
        "--samples",
        "20",
    ];
    let skewed = ["--dirichlet", "0.8", "--json", "--keep", &kept];
    let report = report(&demo(&data, &[&short[..], &skewed].concat()));

    assert_eq!(report["nodes"], 2);
    let title = report["scenario"].as_str().expect("a title");
    assert!(
        title.contains("photographs") && title.contains("Dirichlet(0.8)"),
        "{title}"
    );
    let per_node = report["per_node"].as_array().expect("per_node");
    let samples: Vec<u64> = per_node
        .iter()
        .map(|n| n["samples"].as_u64().expect("a number"))
        .collect();
    // 67 images: the cloud has 27 and the nodes 40, of which they hold some out.
    assert!(
        (20..=28).contains(&samples.iter().sum::<u64>()),
        "{samples:?}"
    );
    for node in per_node {
        let source = node["source"].as_str().expect("a source");
        assert!(
            source.starts_with("images:") && source.contains("limit=67"),
            "{source}"
        );
        assert!(node["bytes_up"].as_u64() > Some(0), "{node}");
    }
    // Colors are easily told apart; it is the test folders' images that are judged.
    for key in ["unseen_base", "unseen_final", "central"] {
        assert!(report["accuracy"][key].as_f64() > Some(0.5), "{report}");
    }
    let svg = fs::read_to_string(Path::new(&kept).join("accuracy.svg")).expect("a picture");
    assert!(svg.contains("the test set, which nobody trained on"));
    let model = Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(["model", "show", "--json"])
        .arg(Path::new(&kept).join("pretrained.gguf"))
        .output()
        .expect("the program starts");
    let model: Value = serde_json::from_slice(&model.stdout).expect("JSON");
    assert_eq!(model["architecture"], "resnet20");
    assert_eq!(
        model["output"]["classes"],
        serde_json::json!(["blue", "green", "red"])
    );
}

#[test]
fn a_table_of_readings_is_learned_by_a_fleet_with_a_group_a_node() {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("shaking.csv");
    let mut table = String::from("t,x,y,who,what\n");
    for who in 0..5 {
        for (what, per_row) in [("slow", 0.2_f64), ("fast", 0.9)] {
            let mut noise = noise(who);
            for t in 0..400 {
                let [a, b] = [0, 1].map(|_| f64::from(noise()) / 500.0);
                let phase = per_row * f64::from(t);
                let (x, y) = (phase.sin() + a, phase.cos() + b);
                writeln!(table, "{t},{x:.4},{y:.4},{who},{what}").expect("memory");
            }
        }
    }
    fs::write(&file, table).expect("written");
    let data = format!(
        "csv:{}?label=what&group=who&columns=x,y&window=32&stride=16&rate_hz=20",
        file.display()
    );
    let short = ["--nodes", "2", "--rounds", "1", "--epochs", "1", "--json"];
    let report = report(&demo(&data, &short));
    assert!(report["accuracy"]["final"].as_f64() > Some(0.8), "{report}");
    for node in report["per_node"].as_array().expect("per_node") {
        let source = node["source"].as_str().expect("a source");
        assert!(
            source.starts_with("csv:") && source.contains("group=who"),
            "{source}"
        );
    }
}

#[test]
fn what_has_no_meaning_for_the_data_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (people, photos, table, nothing) = (at("people"), at("photos"), at("t.csv"), at("empty"));
    for d in [&people, &nothing] {
        fs::create_dir(d).expect("made");
    }
    fs::write(format!("{people}/labels.txt"), "").expect("written");
    photographs(Path::new(&photos), 12);
    fs::write(&table, "a,who,label\n1,1,x\n2,1,x\n1,2,y\n2,2,y\n").expect("written");
    let grouped = format!("csv:{table}?group=who&window=2");
    for (data, arguments, says) in [
        (
            "builtin:post",
            &["--dirichlet", "0.3"][..],
            "each node is a post of its own",
        ),
        (
            &people,
            &["--dirichlet", "0.3"],
            "each node is a person of its own",
        ),
        (&people, &["--samples", "50"], "--samples limits"),
        (
            &photos,
            &["--draw", "2"],
            "--draw chooses among recorded people",
        ),
        (&photos, &["--dirichlet", "0"], "from 0.001"),
        (
            &photos,
            &["--dirichlet", "1", "--skew", "2"],
            "cannot be used with",
        ),
        (
            &photos,
            &["--dirichlet", "1", "--nodes", "1"],
            "no meaning for one node",
        ),
        (&photos, &["--skew", "4"], "there are 3 classes"),
        (
            &photos,
            &["--nodes", "64"],
            "would have 0 samples to train on",
        ),
        (
            &format!("images:{photos}?part=0&parts=2"),
            &[],
            "leave `part`",
        ),
        (
            &format!("images:{photos}?speed=2"),
            &[],
            "`speed` is unknown",
        ),
        (
            &grouped,
            &["--dirichlet", "1", "--nodes", "2"],
            "recordings are dealt whole",
        ),
        (
            &grouped,
            &["--nodes", "4"],
            "2 groups cannot be dealt to 4 nodes and 1 cloud",
        ),
        (&nothing, &[], "holds no data of a known kind"),
        (&at("nowhere"), &[], "nowhere"),
    ] {
        let output = demo(data, arguments);
        let e = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{data} {arguments:?}: {e}");
        assert!(e.contains(says), "{data} {arguments:?}: {e}");
    }
}

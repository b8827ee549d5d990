//! Data sources, recordings, checkpoints.

use lamplight_agent::learn::checkpoint;

use super::Seed;
use crate::agent::{task_header, zipped};
use crate::parts;

const EXPERIMENTS: &str = "experiment,subject,first_sample,n_samples\n1,1,0,400\n2,2,400,300\n";
const LABELS: &str = "experiment,subject,activity,start_sample,end_sample\n\
                      1,1,1,1,200\n1,1,7,201,230\n1,1,5,231,400\n2,2,2,1,300\n";
const DRAWS: &str = "draw,role,subject\n1,cloud,1\n1,node,2\n2,unseen,1\n";

pub(super) fn seeds() -> Vec<Seed> {
    let mut all = specs();
    all.extend(recordings());
    all.extend(tasks());
    all
}

fn specs() -> Vec<Seed> {
    let seed = |name, text: &str| Seed::new("source_spec", name, text);
    vec![
        seed(
            "good-post",
            "builtin:post?post=3&seed=7&train=40&held_out=9&hours=12.5",
        ),
        seed("good-cloud", "builtin:post?post=cloud&posts=6&split=all"),
        seed(
            "good-hapt",
            "hapt:/data/har?subjects=1,2,3&classes=WALKING,SITTING",
        ),
        seed("bad-kind", "s3:bucket?key=1"),
        seed("bad-hours", "builtin:post?post=1&hours=1e999"),
        seed(
            "bad-windows",
            "builtin:post?post=1&train=18446744073709551615&held_out=1",
        ),
        seed(
            "bad-subjects",
            &format!("hapt:x?subjects={}", "1,".repeat(500)),
        ),
    ]
}

fn recordings() -> Vec<Seed> {
    let rows: Vec<u8> = (0..700_u16 * 6)
        .flat_map(|i| (i % 97).to_le_bytes())
        .collect();
    let of = |experiments: &str, labels: &str, signals: &[u8]| {
        let texts = [experiments, labels, DRAWS].map(str::as_bytes);
        parts::join(&[texts[0], texts[1], texts[2], signals])
    };
    let large = EXPERIMENTS.replace("1,1,0,400\n2,2,400,", "1,1,0,8640000\n2,2,8640000,");
    let all_of_it = LABELS.replace("1,1,5,231,400", "1,1,5,231,8640000");
    let quoted = format!(
        "experiment,subject,first_sample,n_samples\n\"{}",
        "\"\"".repeat(400)
    );
    vec![
        Seed::new("hapt", "good-rows", of(EXPERIMENTS, LABELS, &rows)),
        Seed::new("hapt", "good-gzip", of(EXPERIMENTS, LABELS, &zipped(&rows))),
        Seed::new(
            "hapt",
            "bad-8-million-rows",
            of(&large, &all_of_it, &rows[..240]),
        ),
        Seed::new("hapt", "bad-quotes", of(&quoted, LABELS, b"")),
    ]
}

fn tasks() -> Vec<Seed> {
    let dir = parts::directory(&[]);
    let path = dir.path().join("checkpoint");
    checkpoint::write(&path, &task_header(), b"a trainer's bytes").expect("it can be written");
    let mut whole = std::fs::read(&path).expect("it is there");
    // The target puts the digest there.
    whole.truncate(whole.len() - 32);
    let mut long = b"LAMPTASK".to_vec();
    long.extend([0xff; 4]);
    long.extend(b"{}");
    let mut deep = b"LAMPTASK".to_vec();
    deep.extend(900_u32.to_le_bytes());
    deep.extend("[".repeat(900).bytes());
    vec![
        Seed::new("task", "good-task", whole),
        Seed::new("task", "bad-header-of-4-gigabytes", long),
        Seed::new("task", "bad-deep-header", deep),
    ]
}

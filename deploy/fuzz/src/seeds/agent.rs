//! Lines that name data, checkpoints.

use lamplight_agent::learn::checkpoint;

use super::Seed;
use crate::agent::task_header;
use crate::parts;

pub(super) fn seeds() -> Vec<Seed> {
    let mut all = specs();
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
        seed(
            "good-csv",
            "csv:/d/a.csv?window=64&stride=32&label=act&group=user&groups=5,6&rate_hz=50&part=0&parts=4",
        ),
        seed(
            "good-images",
            "images:/d/streets?set=test&size=64&part=1&parts=20&cloud=0.1&dirichlet=0.3&seed=7&limit=500",
        ),
        seed("bad-parts", "cifar10:/d?part=0&parts=4294967296"),
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

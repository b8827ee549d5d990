//! Releases whose classes are not those before: labels follow names, and what has no class waits.

use std::sync::Arc;

use lamplight_models::samples::Samples;
use lamplight_proto::{
    cause::{Part, Told},
    delta::DeltaManifest,
    ids::Digest,
};

use super::bench::{Bench, CHANNELS, LENGTH, base_for};
use crate::{
    dir::NodeDir,
    source::{SampleSource, SourceError, SourceInfo},
    store::{Store, aside::AsideView},
};

const CLASSES: [&str; 3] = ["car", "tram", "bus"];

/// Windows of three classes, each at a level of its own.
#[derive(Debug)]
struct Street;

fn windows(count: usize) -> Samples {
    let level = |i: usize| (i % 3) as f32 - 1.0;
    Samples {
        shape: vec![CHANNELS, LENGTH],
        x: (0..count)
            .flat_map(|i| {
                (0..CHANNELS * LENGTH).map(move |t| level(i) + ((t * i) % 5) as f32 / 9.0)
            })
            .collect(),
        y: (0..count).map(|i| (i % 3) as u32).collect(),
        classes: CLASSES.map(String::from).into(),
    }
}

impl SampleSource for Street {
    fn describe(&self) -> SourceInfo {
        SourceInfo {
            classes: CLASSES.map(String::from).into(),
            ..super::bench::Steps.describe()
        }
    }
    fn train(&self) -> Result<Samples, SourceError> {
        Ok(windows(30))
    }
    fn held_out(&self) -> Result<Samples, SourceError> {
        Ok(windows(12))
    }
}

/// Does a round on a release with these classes; what the coordinator got and what the node keeps
/// aside.
async fn round(
    bench: &Bench,
    number: u64,
    classes: &[&str],
) -> (Option<DeltaManifest>, Vec<AsideView>) {
    let bytes = base_for(classes);
    let mut offer = bench.offer(number, number);
    offer.base_size = bytes.len() as u64;
    offer.base_digest = bench.twin.keep(bytes);
    let base: Digest = offer.base_digest;
    bench.twin.open(offer);
    let mut agent = bench.agent().await;
    bench.until_done(&mut agent).await;
    let accepted = bench.twin.accepted().into_iter();
    let manifest = accepted.map(|(m, _)| m).find(|m| m.base_digest == base);
    let store = Store::open_to_read(&NodeDir::at(bench.path()).database()).expect("opened");
    (manifest, store.aside().expect("read"))
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.config.source = Arc::new(|_| Ok(Box::new(Street)));
    bench
}

#[tokio::test]
async fn samples_of_a_vanished_class_wait_until_a_release_has_it_again() {
    let bench = bench();
    // All classes, in another order than the source's.
    let (manifest, aside) = round(&bench, 1, &["tram", "bus", "car"]).await;
    let m = manifest.expect("accepted");
    assert_eq!((m.sample_count, m.samples_aside), (30, 0));
    assert_eq!(m.after.expect("held out").samples, 12);
    assert!(aside.is_empty());

    // One vanishes, one is new, the rest change places.
    let (manifest, aside) = round(&bench, 2, &["bus", "car", "bicycle"]).await;
    let m = manifest.expect("accepted");
    assert_eq!((m.sample_count, m.samples_aside), (20, 14));
    assert_eq!(m.after.expect("held out").samples, 8);
    let waits = AsideView {
        model: "tcn".into(),
        version: 2,
        class: "tram".into(),
        samples: 14,
    };
    assert_eq!(aside, [waits]);
    assert_eq!(bench.tasks()[0].samples_aside, Some(14));

    // It is back.
    let (manifest, aside) = round(&bench, 3, &["car", "tram", "bus", "bicycle"]).await;
    let m = manifest.expect("accepted");
    assert_eq!((m.sample_count, m.samples_aside), (30, 0));
    assert!(aside.is_empty());
}

#[tokio::test]
async fn a_node_with_samples_of_vanished_classes_only_says_so_without_naming_them() {
    let bench = bench();
    let (manifest, aside) = round(&bench, 1, &["bicycle", "truck"]).await;
    assert!(manifest.is_none());
    let task = &bench.tasks()[0];
    assert_eq!(task.outcome.as_deref(), Some("failed"));
    assert_eq!(task.samples_aside, Some(42));
    // The node itself knows.
    let names: Vec<&str> = aside.iter().map(|a| a.class.as_str()).collect();
    assert_eq!(names, ["bus", "car", "tram"]);
    assert!(
        task.reason
            .as_ref()
            .expect("why")
            .contains("bus, car, tram")
    );
    // The coordinator does not.
    assert_eq!(bench.twin.failures(), [Told::Misfit(Part::Classes)]);
    // The next release has one of them.
    let (manifest, _) = round(&bench, 2, &["bicycle", "tram"]).await;
    let m = manifest.expect("accepted");
    assert_eq!((m.sample_count, m.samples_aside), (10, 28));
}

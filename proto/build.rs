//! Compiles the protocol with protox: no system protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 6] = [
    "lamplight/v1/common.proto",
    "lamplight/v1/enrolment.proto",
    "lamplight/v1/models.proto",
    "lamplight/v1/rounds.proto",
    "lamplight/v1/deltas.proto",
    "lamplight/v1/operator.proto",
];

/// Listings an operator prints as JSON; everything else is parsed into a domain type first.
const VIEWS: [&str; 8] = [
    "Metrics",
    "ModelView",
    "NodeRoundView",
    "NodeView",
    "ParticipantView",
    "ReleaseView",
    "RoundView",
    "TaskView",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // For the reflection service.
    fs::write(out.join("lamplight_descriptor.bin"), files.encode_to_vec())?;
    let mut config = tonic_prost_build::configure().bytes(".");
    for view in VIEWS {
        config = config.type_attribute(
            format!("lamplight.v1.{view}"),
            "#[derive(serde::Serialize)]",
        );
    }
    // A node keeps in its outbox why the coordinator refused.
    config = config.type_attribute(
        "lamplight.v1.Refusal.Reason",
        "#[derive(serde::Serialize, serde::Deserialize)]",
    );
    config.compile_fds(files)?;
    Ok(())
}

//! Where tests find recorded data.

use std::path::{Path, PathBuf};

/// A directory of the real data, or `None` with a message where it is absent.
pub(super) fn real_data(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let data =
        std::env::var_os("LAMPLIGHT_DATA").map_or_else(|| "../shared/data".into(), PathBuf::from);
    let dir = root.join(data).join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    let required = std::env::var("LAMPLIGHT_REQUIRE_DATA").is_ok_and(|v| v == "1");
    assert!(
        !required,
        "LAMPLIGHT_REQUIRE_DATA=1 but there is no {}",
        dir.display()
    );
    println!("skipped: there is no {}", dir.display());
    None
}

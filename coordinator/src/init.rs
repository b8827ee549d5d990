//! A new deployment: keys, authority, certificates, database.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lamplight_proto::{
    ids::{Deployment, Digest, Label},
    keys::SigningKey,
    tls::{self, Identity, TlsError},
};

use crate::{
    authority::{Authority, AuthorityError},
    blob::Blobs,
    clock::{Clock as _, System},
    dir::{StateDir, make_dir, write_file},
    fault::Broken,
    store::Store,
};

/// Names the server's certificate always holds, so that it can be reached on its own machine.
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What a new deployment is made with.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// State directory; made if need be, and must hold no deployment yet.
    pub dir: PathBuf,
    /// Name of the fleet; bound into everything that is signed.
    pub deployment: Deployment,
    /// Host names and addresses nodes and operators will call it by, beside localhost.
    pub hosts: Vec<String>,
    /// Name of the first operator.
    pub operator: Label,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// The state directory.
    pub dir: PathBuf,
    /// The fleet.
    pub deployment: Deployment,
    /// SHA-256 of the authority's certificate: what join tokens pin.
    pub authority: Digest,
    /// Public half of the release key.
    pub release_key: [u8; 32],
    /// Directory with the operator's identity (`ca.crt`, `tls.crt`, `tls.key`).
    pub operator: PathBuf,
}

/// Why no deployment was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one.
    #[error("{0} exists; a deployment is never overwritten; choose another directory")]
    Exists(PathBuf),
    /// A file could not be made.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A certificate or key could not be written.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<AuthorityError> for InitError {
    fn from(e: AuthorityError) -> Self {
        Broken::from(e).into()
    }
}

fn private_dir(path: &Path) -> Result<(), Broken> {
    let broken = |source| Broken::File {
        path: path.to_owned(),
        source,
    };
    make_dir(path).map_err(broken)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(broken)?;
    }
    Ok(())
}

/// Makes a new deployment. Blocks.
///
/// # Errors
/// [`InitError`]; [`InitError::Exists`] when the directory holds a deployment or part of one.
pub fn init(options: &InitOptions) -> Result<InitReport, InitError> {
    let dir = StateDir::new(&options.dir);
    let files = [
        dir.database(),
        dir.authority_key(),
        dir.authority_certificate(),
        dir.server_key(),
        dir.release_key(),
    ];
    // `symlink_metadata`: even a dangling link is somebody's file.
    if let Some(there) = files.into_iter().find(|f| fs::symlink_metadata(f).is_ok()) {
        return Err(InitError::Exists(there));
    }
    private_dir(dir.path())?;

    let (authority, root) = Authority::create(options.deployment.clone())?;
    let hosts: Vec<String> = (ALWAYS.iter().map(|h| (*h).to_owned()))
        .chain(
            (options.hosts.iter())
                .filter(|h| !ALWAYS.contains(&h.as_str()))
                .cloned(),
        )
        .collect();
    let server = authority.server(&hosts)?;
    let operator = authority.operator(&options.operator)?;

    tls::write_private_key(&dir.authority_key(), &root.key)?;
    tls::write_certificate(&dir.authority_certificate(), &root.certificate)?;
    tls::write_private_key(&dir.server_key(), &server.key)?;
    tls::write_certificate(&dir.server_certificate(), &server.certificate)?;

    let release_key = SigningKey::load_or_create(&dir.release_key()).map_err(Broken::from)?;
    let public = release_key.public();
    let line = format!("{}\n", hex::encode(public));
    write_file(&dir.files().release_pub(), line.as_bytes())?;

    let home = dir.operator(&options.operator);
    private_dir(&home)?;
    Identity::new(operator.certificate, operator.key, root.certificate.clone()).write(&home)?;

    Blobs::open(dir.blobs()).map_err(Broken::from)?;
    // Last: its presence means that all else is there.
    Store::create(&dir.database(), &options.deployment, System.now()).map_err(Broken::from)?;
    Ok(InitReport {
        dir: options.dir.clone(),
        deployment: options.deployment.clone(),
        authority: Digest::of(&root.certificate),
        release_key: public,
        operator: home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> InitOptions {
        InitOptions {
            dir: dir.join("state"),
            deployment: "lamps".parse().unwrap(),
            hosts: vec!["fleet.example.org".into(), "localhost".into()],
            operator: "alice".parse().unwrap(),
        }
    }

    #[test]
    fn a_deployment_is_made_once_and_its_secrets_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let report = init(&options(dir.path())).unwrap();
        Identity::read(&report.operator).unwrap();
        for secret in [
            "ca.key",
            "tls.key",
            "release.key",
            "operators/alice/tls.key",
        ] {
            lamplight_proto::keys::read_secret(&report.dir.join(secret)).unwrap();
        }
        let public = fs::read_to_string(report.dir.join("release.pub")).unwrap();
        assert_eq!(public.trim(), hex::encode(report.release_key));

        let before = fs::read(report.dir.join("ca.key")).unwrap();
        assert!(matches!(
            init(&options(dir.path())),
            Err(InitError::Exists(_))
        ));
        assert_eq!(fs::read(report.dir.join("ca.key")).unwrap(), before);
    }

    #[test]
    fn a_host_that_is_no_name_is_an_error_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.hosts = vec!["lämp".into()];
        assert!(init(&options).is_err());
        assert!(!options.dir.join("ca.key").exists());
    }
}

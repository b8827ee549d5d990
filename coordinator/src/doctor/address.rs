//! Who listens where this coordinator should.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use lamplight_proto::{
    doctor::{
        Finding, State,
        reach::{self, Trust},
    },
    ids::Digest,
    tls,
};

use crate::dir::StateDir;

const CHECK: &str = "address";

/// Where this machine calls a server that listens everywhere.
fn callable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// The address of this directory's own coordinator, if it runs and answers; what it answered.
async fn running(dir: &StateDir) -> Option<(SocketAddr, String)> {
    let text = fs::read_to_string(dir.address()).ok()?;
    let listening: SocketAddr = text.trim().parse().ok()?;
    let authority = tls::read_certificate(&dir.authority_certificate()).ok()?;
    let address = callable(listening).to_string().parse().ok()?;
    let trust = Trust::Pin(Digest::of(&authority));
    let (finding, _) = reach::coordinator(&address, trust).await;
    (finding.state == State::Ok).then_some((listening, finding.says))
}

/// Whether the address can be listened on, or is by this directory's own coordinator.
pub(super) async fn check(dir: &StateDir, listen: SocketAddr) -> Finding {
    if let Some((listening, says)) = running(dir).await {
        let says = format!("this coordinator runs: {says}");
        return if listen.port() == 0 || listening.port() == listen.port() {
            Finding::ok(CHECK, says)
        } else {
            Finding::warning(
                CHECK,
                format!("{says}; but the configuration says {listen}"),
                "restart it to take up the configuration",
            )
        };
    }
    // Let go at once; nobody is kept waiting.
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok(CHECK, format!("{listen} is free")),
        Err(e) => {
            let (why, remedy) = match e.kind() {
                io::ErrorKind::AddrInUse => (
                    "another program listens there".to_owned(),
                    "stop that program, or set `listen` to another port",
                ),
                io::ErrorKind::PermissionDenied => (
                    "this user may not listen there".to_owned(),
                    "set `listen` to a port above 1023",
                ),
                io::ErrorKind::AddrNotAvailable => (
                    "this machine has no such address".to_owned(),
                    "set `listen` to an address of this machine, or to 0.0.0.0",
                ),
                _ => (e.to_string(), "set `listen` to an address of this machine"),
            };
            Finding::fault(CHECK, format!("{listen}: {why}"), remedy)
        }
    }
}

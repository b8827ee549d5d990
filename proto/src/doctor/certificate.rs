//! How long certificates hold, and for whom.

use std::{net::IpAddr, path::Path, time::Duration};

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{Finding, Machine, day};
use crate::{ids::UnixMillis, tls};

/// With less left than this, somebody should act.
pub const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// It holds from here.
    pub from: UnixMillis,
    /// It ends here.
    pub until: UnixMillis,
    /// Host names and addresses it is good for.
    pub hosts: Vec<String>,
}

impl Facts {
    /// Reads a DER certificate; `None` when it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(der).ok()?;
        let millis =
            |at: x509_parser::time::ASN1Time| UnixMillis(at.timestamp().saturating_mul(1000));
        let names = parsed.subject_alternative_name().ok()?;
        let mut hosts = Vec::new();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                    if let Ok(ip) = v4.or(v6) {
                        hosts.push(ip.to_string());
                    }
                }
                _ => {}
            }
        }
        Some(Self {
            from: millis(parsed.validity().not_before),
            until: millis(parsed.validity().not_after),
            hosts,
        })
    }
}

/// Whether the certificate at `path` (PEM) holds now and for a while; `renew` is what to do when it does
/// not.
#[must_use]
pub fn life(machine: &dyn Machine, path: &Path, whose: &str, renew: &str) -> Finding {
    const CHECK: &str = "certificate";
    let read = tls::read_certificate(path).map_err(|e| e.to_string());
    let facts = read.and_then(|der| {
        Facts::read(&der).ok_or_else(|| format!("{} is no X.509 certificate", path.display()))
    });
    let facts = match facts {
        Ok(facts) => facts,
        Err(e) => return Finding::fault(CHECK, format!("{whose}: {e}"), renew),
    };
    let now = machine.now();
    let left = facts.until.0.saturating_sub(now.0);
    let days = left / (24 * 3_600_000);
    if now < facts.from {
        Finding::fault(
            CHECK,
            format!("{whose} holds only from {}", day(facts.from)),
            "set this machine's clock",
        )
    } else if left <= 0 {
        let says = format!("{whose} ended on {}", day(facts.until));
        Finding::fault(CHECK, says, renew)
    } else if u128::from(left.unsigned_abs()) < SOON.as_millis() {
        let says = format!("{whose} ends in {days} day(s), on {}", day(facts.until));
        Finding::warning(CHECK, says, renew)
    } else {
        let says = format!("{whose} holds for {days} days, until {}", day(facts.until));
        Finding::ok(CHECK, says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{State, ThisMachine};

    #[test]
    fn a_certificate_is_early_good_ending_or_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("tls.crt");
        let key = rcgen::KeyPair::generate().expect("key");
        let now = time::OffsetDateTime::now_utc();
        let day = time::Duration::days(1);
        for (from, until, want) in [
            (now - day, now + 100 * day, State::Ok),
            (now - day, now + 10 * day, State::Warning),
            (now - 9 * day, now - day, State::Fault),
            (now + day, now + 100 * day, State::Fault),
        ] {
            let hosts = vec!["fleet.example".to_owned(), "10.0.0.1".to_owned()];
            let mut params = rcgen::CertificateParams::new(hosts.clone()).expect("names");
            (params.not_before, params.not_after) = (from, until);
            let made = params.self_signed(&key).expect("signed");
            tls::write_certificate(&path, made.der()).expect("written");
            let finding = life(&ThisMachine, &path, "the node's certificate", "enrol again");
            assert_eq!(finding.state, want, "{finding:?}");
            assert_eq!(Facts::read(made.der()).expect("read").hosts, hosts);
        }
        std::fs::write(&path, b"nothing").expect("written");
        let finding = life(&ThisMachine, &path, "the node's certificate", "enrol again");
        assert_eq!(finding.state, State::Fault);
        assert!(finding.says.contains("tls.crt"), "{finding:?}");
    }
}

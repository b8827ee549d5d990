//! Who may speak: a protocol number and a version travel with every call, both ways.
//!
//! [`ServerVersions`] wraps the coordinator's services, [`ClientVersions`] every client's channel, so
//! no single call can forget. Standard services (`/grpc.…`: health, reflection) are exempt: their
//! callers know nothing of Lamplight.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    Malformed,
    ids::UnixMillis,
    offer::clip,
    refusal::{Reason, Refusal},
};

/// The protocol spoken by this build.
pub const PROTOCOL: u32 = 1;
/// The oldest protocol still understood.
pub const OLDEST_PROTOCOL: u32 = 1;
/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Header with the protocol number.
pub const PROTOCOL_HEADER: &str = "lamplight-protocol";
/// Header with the semantic version.
pub const VERSION_HEADER: &str = "lamplight-version";

/// Header of answers with the coordinator's clock, in milliseconds since 1970 UTC.
pub const TIME_HEADER: &str = "lamplight-unix-ms";

/// A version of these programs, without what may follow behind `-` or `+`: a build on the way to a
/// version speaks like that version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl ProgramVersion {
    /// `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for ProgramVersion {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let core = text.split(['-', '+']).next()?;
            let mut parts = core.split('.').map(|part| {
                // `parse` alone would take a sign.
                let plain = part.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| part.parse().ok())?
            });
            let version = Self::new(parts.next()??, parts.next()??, parts.next()??);
            parts.next().is_none().then_some(version)
        };
        parse()
            .ok_or_else(|| Malformed::new("version", format!("{:?} is not like 0.1.0", clip(text))))
    }
}

fn stamp(headers: &mut HeaderMap, protocol: u32, version: &'static str) {
    headers.insert(PROTOCOL_HEADER, HeaderValue::from(protocol));
    headers.insert(VERSION_HEADER, HeaderValue::from_static(version));
}

/// The version a peer named, fit for logs and tables.
#[must_use]
pub fn peer_version(headers: &HeaderMap) -> String {
    headers
        .get(VERSION_HEADER)
        .and_then(|v| v.to_str().ok())
        .map_or_else(
            || "unknown".to_owned(),
            |v| v.chars().take(32).collect::<String>(),
        )
}

/// The clock a coordinator named; older ones do not.
#[must_use]
pub fn peer_time(headers: &HeaderMap) -> Option<UnixMillis> {
    let text = headers.get(TIME_HEADER)?.to_str().ok()?;
    text.parse().ok().map(UnixMillis)
}

fn check(
    headers: &HeaderMap,
    peer: &str,
    remedy_old: &str,
    remedy_new: &str,
) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(Reason::Protocol, message));
    let Some(value) = headers.get(PROTOCOL_HEADER) else {
        return refuse(format!(
            "the {peer} named no protocol (header {PROTOCOL_HEADER}); it is not Lamplight, or a \
             proxy between strips headers"
        ));
    };
    match value.to_str().ok().and_then(|v| v.parse::<u32>().ok()) {
        Some(p) if p < OLDEST_PROTOCOL => refuse(format!(
            "the {peer} (version {}) speaks protocol {p}, too old for {VERSION}, which speaks \
             {OLDEST_PROTOCOL} to {PROTOCOL}; {remedy_old}",
            peer_version(headers)
        )),
        Some(p) if p > PROTOCOL => refuse(format!(
            "the {peer} (version {}) speaks protocol {p}, too new for {VERSION}, which speaks \
             {OLDEST_PROTOCOL} to {PROTOCOL}; {remedy_new}",
            peer_version(headers)
        )),
        Some(_) => Ok(()),
        None => refuse(format!("the {peer}'s {PROTOCOL_HEADER} is not a number")),
    }
}

/// A coordinator that does not have a call because it is older than the call.
fn too_old_for(path: &str, headers: &HeaderMap) -> Option<Refusal> {
    let named = peer_version(headers);
    let is_older = named.parse::<ProgramVersion>().ok()? < VERSION.parse().ok()?;
    is_older.then(|| {
        Refusal::new(
            Reason::Protocol,
            format!(
                "the coordinator (version {named}) is too old for {}, which {VERSION} has; upgrade \
                 the coordinator",
                clip(path.trim_start_matches('/'))
            ),
        )
    })
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// Layer for the coordinator: refuses callers whose protocol is not spoken, stamps answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerVersions;

impl<S> Layer<S> for ServerVersions {
    type Service = ServerVersioned<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ServerVersioned { inner }
    }
}

/// A service behind [`ServerVersions`].
#[derive(Debug, Clone)]
pub struct ServerVersioned<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for ServerVersioned<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let standard = request.uri().path().starts_with("/grpc.");
        let checked = check(
            request.headers(),
            "caller",
            "upgrade the caller",
            "upgrade the coordinator first",
        );
        let answer = match checked {
            Err(refusal) if !standard => Err(Status::from(refusal).into_http()),
            _ => Ok(self.inner.call(request)),
        };
        Box::pin(async move {
            let mut response = match answer {
                Ok(future) => future.await?,
                Err(refused) => refused,
            };
            let now = HeaderValue::from(UnixMillis::now().0);
            response.headers_mut().insert(TIME_HEADER, now);
            stamp(response.headers_mut(), PROTOCOL, VERSION);
            Ok(response)
        })
    }
}

/// A client's channel that names its protocol and checks the answerer's.
#[derive(Debug, Clone)]
pub struct ClientVersions<S> {
    inner: S,
    protocol: u32,
    version: &'static str,
}

impl<S> ClientVersions<S> {
    /// Wraps a channel.
    pub fn new(inner: S) -> Self {
        Self::claiming(inner, PROTOCOL)
    }

    /// Wraps a channel that claims another protocol, to test refusals.
    pub fn claiming(inner: S, protocol: u32) -> Self {
        Self {
            inner,
            protocol,
            version: VERSION,
        }
    }

    /// The same channel, claiming another protocol, to test refusals.
    #[must_use]
    pub fn speaking(self, protocol: u32) -> Self {
        Self { protocol, ..self }
    }

    /// The same channel, naming another version of this program, to test what older peers meet.
    #[must_use]
    pub fn naming(self, version: &'static str) -> Self {
        Self { version, ..self }
    }
}

impl<S> Service<Request<Body>> for ClientVersions<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        stamp(request.headers_mut(), self.protocol, self.version);
        let path = request.uri().path().to_owned();
        let future = self.inner.call(request);
        Box::pin(async move {
            let response = future.await?;
            let status = Status::from_header_map(response.headers());
            match status.map(|s| s.code()) {
                None | Some(Code::Ok) => {}
                Some(Code::Unimplemented) => {
                    return Ok(match too_old_for(&path, response.headers()) {
                        Some(refusal) => Status::from(refusal).into_http(),
                        None => response,
                    });
                }
                // A refusal of this very kind says more than what could be said here.
                Some(_) => return Ok(response),
            }
            let checked = check(
                response.headers(),
                "coordinator",
                "upgrade the coordinator",
                "upgrade this program",
            );
            Ok(match checked {
                Ok(()) => response,
                Err(refusal) => Status::from(refusal).into_http(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn versions_order_by_number_and_marks_behind_them_do_not_count() {
        let v = |text: &str| text.parse::<ProgramVersion>();
        assert_eq!(v("0.2.0"), Ok(ProgramVersion::new(0, 2, 0)));
        assert!(v("0.10.0").ok() > v("0.9.7").ok() && v("1.0.0").ok() > v("0.99.99").ok());
        assert_eq!(v("0.2.0-rc.1"), v("0.2.0"));
        assert_eq!(v("0.2.0+g79ef5a1"), v("0.2.0"));
        for bad in [
            "",
            "unknown",
            "1",
            "1.2",
            "1.2.3.4",
            "+1.2.3",
            "1.-2.3",
            "1..3",
            "4294967296.0.0",
        ] {
            assert!(v(bad).is_err(), "{bad:?}");
        }
        assert!(v(VERSION).is_ok(), "this build's own");
    }

    async fn call(protocol: Option<&str>, path: &str) -> (Option<Refusal>, HeaderMap) {
        let mut service = ServerVersions.layer(tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::default()))
        }));
        let mut request = Request::new(Body::default());
        *request.uri_mut() = path.parse().expect("a path");
        if let Some(p) = protocol {
            let p = p.parse().expect("a header");
            request.headers_mut().insert(PROTOCOL_HEADER, p);
        }
        let response = service.call(request).await.expect("infallible");
        let headers = response.headers().clone();
        let refusal = Status::from_header_map(&headers)
            .as_ref()
            .and_then(Refusal::in_status);
        (refusal, headers)
    }

    #[tokio::test]
    async fn too_old_too_new_and_silent_callers_are_refused_with_a_remedy() {
        for (protocol, says) in [
            (Some("0"), "too old"),
            (Some("99"), "too new"),
            (Some("x"), "not a number"),
            (None, "named no protocol"),
        ] {
            let (refusal, _) = call(protocol, "/lamplight.v1.Rounds/Poll").await;
            let refusal = refusal.expect("refused");
            assert_eq!(refusal.reason, Reason::Protocol);
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[tokio::test]
    async fn the_present_protocol_and_standard_services_pass_and_answers_are_stamped() {
        for (protocol, path) in [
            (Some("1"), "/lamplight.v1.Rounds/Poll"),
            (None, "/grpc.health.v1.Health/Check"),
        ] {
            let (refusal, headers) = call(protocol, path).await;
            assert_eq!(refusal, None);
            assert_eq!(headers[PROTOCOL_HEADER], "1");
            assert_eq!(headers[VERSION_HEADER], VERSION);
            let now = peer_time(&headers).expect("a clock");
            assert!(now.0.abs_diff(UnixMillis::now().0) < 60_000);
        }
    }

    #[tokio::test]
    async fn a_call_that_an_older_coordinator_does_not_have_is_a_refusal_with_a_remedy() {
        let answer = |version: Option<&'static str>| async move {
            let mut client = ClientVersions::new(tower::service_fn(move |_| async move {
                let mut response = Status::unimplemented("").into_http();
                if let Some(version) = version {
                    stamp(response.headers_mut(), PROTOCOL, version);
                }
                Ok::<_, Infallible>(response)
            }));
            let mut request = Request::new(Body::default());
            *request.uri_mut() = "/lamplight.v1.Operator/Sing".parse().expect("a path");
            let response = client.call(request).await.expect("infallible");
            let status = Status::from_header_map(response.headers()).expect("a status");
            (status.code(), Refusal::in_status(&status))
        };
        let (_, refusal) = answer(Some("0.0.9")).await;
        let refusal = refusal.expect("refused");
        assert_eq!(refusal.reason, Reason::Protocol);
        for part in [
            "0.0.9",
            "lamplight.v1.Operator/Sing",
            VERSION,
            "upgrade the coordinator",
        ] {
            assert!(refusal.message.contains(part), "{refusal}");
        }
        // One that is not older, or no Lamplight at all, has another reason.
        for version in [Some(VERSION), Some("99.0.0"), Some("odd"), None] {
            assert_eq!(
                answer(version).await,
                (Code::Unimplemented, None),
                "{version:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_client_refuses_an_answer_that_names_no_protocol() {
        let mut client = ClientVersions::new(tower::service_fn(|r: Request<Body>| async move {
            assert_eq!(r.headers()[PROTOCOL_HEADER], "1");
            Ok::<_, Infallible>(Response::new(Body::default()))
        }));
        let response = client
            .call(Request::new(Body::default()))
            .await
            .expect("infallible");
        let status = Status::from_header_map(response.headers()).expect("a status");
        let refusal = Refusal::in_status(&status).expect("refused");
        assert_eq!(refusal.reason, Reason::Protocol);
    }
}

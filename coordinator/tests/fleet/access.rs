//! Who may call what.

use std::time::Duration;

use lamplight_coordinator::{
    OpenError, RunError, run,
    store::{StoreError, nodes},
};
use lamplight_proto::{
    ids::{Digest, NodeId, UnixMillis},
    keys::SigningKey,
    refusal::Reason,
    tls::{self, Address},
    wire::{
        self, deltas_client::DeltasClient, models_client::ModelsClient,
        operator_client::OperatorClient, rounds_client::RoundsClient,
    },
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::oneshot};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    node::{Node, certificate_request, enrol, refusal},
    server::{Site, read},
};

#[tokio::test]
async fn a_token_joins_one_node_and_the_same_call_again_is_answered_the_same() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let token = op.token().await;
    let key = SigningKey::generate().unwrap();
    let (csr, _) = certificate_request();
    let reply = enrol(&server, &token, &key, &csr).await.unwrap();
    assert_eq!(enrol(&server, &token, &key, &csr).await.unwrap(), reply);
    let listed = read(&site.path().join(format!("nodes/{}.pub", reply.node_id)));
    assert_eq!(
        listed,
        format!("{}\n", hex::encode(key.public())).into_bytes()
    );

    let reason = |r: Result<wire::EnrolReply, _>| refusal(r.unwrap_err()).reason;
    // Used, with another signing key, and with another TLS key.
    let other = SigningKey::generate().unwrap();
    assert_eq!(
        reason(enrol(&server, &token, &other, &csr).await),
        Reason::Token
    );
    let (other_csr, _) = certificate_request();
    assert_eq!(
        reason(enrol(&server, &token, &key, &other_csr).await),
        Reason::Token
    );
    // Never made here.
    let forged = lamplight_proto::token::JoinToken::generate(token.authority()).unwrap();
    assert_eq!(
        reason(enrol(&server, &forged, &other, &csr).await),
        Reason::Token
    );
    // Expired.
    let late = op.token().await;
    site.clock.advance(Duration::from_secs(601));
    assert_eq!(
        reason(enrol(&server, &late, &other, &csr).await),
        Reason::Token
    );
    // A proof by another key than the one named.
    let fresh = op.token().await;
    let link = tls::connect_pinned(&server.address, fresh.authority()).unwrap();
    let request = wire::EnrolRequest {
        token_id: fresh.id(),
        token_secret: fresh.secret().to_vec().into(),
        certificate_request_der: csr.clone().into(),
        signing_key: other.public().to_vec().into(),
        proof: key.sign(b"something else").to_vec().into(),
        name: "a-post".into(),
    };
    let mut client = wire::enrolment_client::EnrolmentClient::new(link);
    assert_eq!(
        reason(client.enrol(request).await.map(tonic::Response::into_inner)),
        Reason::BadSignature
    );
    // The token was not spent by failing.
    enrol(&server, &fresh, &other, &csr).await.unwrap();
}

#[tokio::test]
async fn each_role_calls_its_own_services_only() {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let node = Node::join(&server, &mut op).await;
    let as_node = server.link(&node.identity);
    let as_operator = server.link(&site.operator);
    let pin = Digest::of(site.operator.authority());
    let as_nobody = tls::connect_pinned(&server.address, pin).unwrap();

    let unauthenticated = |e: tonic::Status| {
        assert_eq!(refusal(e).reason, Reason::Unauthenticated);
    };
    for link in [as_node.clone(), as_nobody.clone()] {
        let mut c = OperatorClient::new(link);
        unauthenticated(
            c.list_nodes(wire::ListNodesRequest::default())
                .await
                .unwrap_err(),
        );
        unauthenticated(
            c.create_token(wire::CreateTokenRequest::default())
                .await
                .unwrap_err(),
        );
    }
    for link in [as_operator.clone(), as_nobody.clone()] {
        let begin = wire::BeginDeltaRequest::default();
        unauthenticated(
            DeltasClient::new(link.clone())
                .begin(begin)
                .await
                .unwrap_err(),
        );
        let poll = wire::PollRequest::default();
        unauthenticated(RoundsClient::new(link).poll(poll).await.unwrap_err());
    }
    let get = wire::GetReleaseRequest {
        model: "post".into(),
        version: 0,
    };
    let mut models = ModelsClient::new(as_nobody.clone());
    unauthenticated(models.get_release(get.clone()).await.unwrap_err());
    for link in [as_node.clone(), as_operator.clone()] {
        let e = ModelsClient::new(link)
            .get_release(get.clone())
            .await
            .unwrap_err();
        assert_eq!(
            refusal(e).reason,
            Reason::NotFound,
            "may ask, there is none"
        );
    }

    // Health is open to anyone; reflection to any certificate of the fleet.
    for service in ["", "lamplight.v1.Rounds", "lamplight.v1.Operator"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let reply = HealthClient::new(as_nobody.clone())
            .check(request)
            .await
            .unwrap();
        assert_eq!(reply.into_inner().status, 1, "{service} serves");
    }
    let ask = || {
        tokio_stream::iter([ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        }])
    };
    let mut client = ServerReflectionClient::new(as_node);
    let mut replies = client
        .server_reflection_info(ask())
        .await
        .unwrap()
        .into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("{reply:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["Enrolment", "Models", "Rounds", "Deltas", "Operator"] {
        assert!(
            names.contains(&format!("lamplight.v1.{name}").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    let mut client = ServerReflectionClient::new(as_nobody);
    unauthenticated(client.server_reflection_info(ask()).await.unwrap_err());
}

#[tokio::test]
async fn a_caller_that_is_too_old_is_refused_with_a_remedy() {
    let site = Site::new();
    let server = site.start().await;
    let link = server.link(&site.operator).speaking(0);
    let e = OperatorClient::new(link)
        .list_nodes(wire::ListNodesRequest::default())
        .await
        .unwrap_err();
    let e = refusal(e);
    assert_eq!(e.reason, Reason::Protocol);
    assert!(e.message.contains("too old"), "{e}");
}

#[tokio::test]
async fn another_fleets_certificate_does_not_get_in() {
    let site = Site::new();
    let elsewhere = Site::new();
    let server = site.start().await;
    // Its own authority vouches for it, ours does not: the handshake fails either way round.
    let link = server.link(&elsewhere.operator);
    let e = OperatorClient::new(link)
        .list_nodes(wire::ListNodesRequest::default())
        .await
        .unwrap_err();
    assert_ne!(e.code(), tonic::Code::Ok);
    assert!(
        lamplight_proto::refusal::Refusal::in_status(&e).is_none(),
        "{e:?}"
    );
}

#[tokio::test]
async fn the_address_a_killed_coordinator_left_is_gone_before_the_next_one_listens() {
    let site = Site::new();
    let file = site.path().join("address");
    std::fs::write(&file, "127.0.0.1:1\n").unwrap();
    let _house = site.open();
    assert!(!file.exists());
}

#[tokio::test]
async fn a_fleet_of_thirty_thousand_can_be_listed() {
    let site = Site::new();
    let house = site.open();
    let now = UnixMillis(1_800_000_000_000);
    let written = house.store.write(|tx| {
        for n in 0..30_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            let id = NodeId::of_key(&key);
            nodes::enrol(tx, &id, &key, &format!("west-side-{n:05}"), b"", now)?;
            let sighting = nodes::Sighting {
                phase: "training",
                running: Some(Digest::of(b"a model")),
                agent_version: "0.1.0",
                at: now,
            };
            nodes::seen(tx, &id, &sighting)?;
        }
        Ok::<_, StoreError>(())
    });
    written.unwrap();
    drop(house);
    let server = site.start().await;
    let mut client = OperatorClient::new(server.link(&site.operator))
        .max_decoding_message_size(tls::MAX_LISTING_BYTES);
    let reply = client
        .list_nodes(wire::ListNodesRequest::default())
        .await
        .unwrap();
    let reply = reply.into_inner();
    assert_eq!(reply.nodes.len(), 30_000);
    // What every other call is bounded to would not do.
    assert!(reply.encoded_len() > tls::MAX_MESSAGE_BYTES);
}

#[tokio::test]
async fn run_tells_its_address_keeps_others_out_and_ends_when_told() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(run(site.config(), listener, async {
        stopped.await.ok();
    }));
    let file = site.path().join("address");
    for _ in 0..500 {
        if file.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = String::from_utf8(read(&file)).unwrap();
    assert_eq!(said.trim(), format!("127.0.0.1:{port}"));
    let address: Address = said.trim().parse().unwrap();
    let link = tls::connect(&address, &site.operator).unwrap();
    let mut client = OperatorClient::new(link);
    client
        .list_nodes(wire::ListNodesRequest::default())
        .await
        .unwrap();

    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let e = run(site.config(), second, std::future::pending())
        .await
        .unwrap_err();
    assert!(matches!(e, RunError::Open(OpenError::Busy(_))), "{e}");

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .expect("within the grace")
        .unwrap()
        .unwrap();
    assert!(!file.exists());
    assert!(
        client
            .list_nodes(wire::ListNodesRequest::default())
            .await
            .is_err()
    );
}

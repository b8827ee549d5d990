//! `docs/egress.md` as a list: which fields and headers it names.

use std::collections::BTreeSet;

use lamplight_proto::{DESCRIPTOR, delta::DeltaManifest, envelope::Payload as _};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const DOCUMENT: &str = include_str!("../../../docs/egress.md");

/// Services that nodes do not call.
const OPERATORS: [&str; 1] = ["Operator"];

/// The compiled protocol.
pub(crate) fn protocol() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTOR).expect("the compiled protocol")
}

/// The message inside an envelope that a node signs.
pub(crate) fn signed_by_nodes(
    pool: &DescriptorPool,
    payload_type: &str,
) -> Option<MessageDescriptor> {
    (payload_type == DeltaManifest::TYPE)
        .then(|| pool.get_message_by_name("lamplight.v1.DeltaManifest"))
        .flatten()
}

/// First cells of the table under a heading, without their backquotes.
fn column(heading: &str) -> BTreeSet<String> {
    let section = DOCUMENT
        .split("\n## ")
        .find(|s| s.starts_with(heading))
        .unwrap_or_else(|| panic!("docs/egress.md has no section `{heading}`"));
    let cells = section.lines().filter_map(|line| {
        let cell = line.strip_prefix("| `")?.split('`').next()?;
        Some(cell.to_owned())
    });
    let mut listed = BTreeSet::new();
    for cell in cells {
        assert!(listed.insert(cell.clone()), "`{cell}` is listed twice");
    }
    assert!(!listed.is_empty(), "`{heading}` lists nothing");
    listed
}

/// Fields of messages, as `Message.field`.
pub(crate) fn fields() -> BTreeSet<String> {
    column("Messages")
}

/// Headers of requests.
pub(crate) fn headers() -> BTreeSet<String> {
    column("Headers")
}

/// Adds the message's fields and those of all messages in it.
fn reach(message: &MessageDescriptor, fields: &mut BTreeSet<String>, words: &mut BTreeSet<String>) {
    for field in message.fields() {
        if !fields.insert(format!("{}.{}", message.name(), field.name())) {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) => reach(&inner, fields, words),
            Kind::Enum(set) => words.extend(set.values().map(|v| v.name().to_owned())),
            _ => {}
        }
    }
}

#[test]
fn the_document_lists_every_field_a_node_can_send_and_no_other() {
    let pool = protocol();
    let (mut fields, mut words) = (BTreeSet::new(), BTreeSet::new());
    let services: Vec<_> = pool.services().collect();
    for operators in OPERATORS {
        assert!(
            services.iter().any(|s| s.name() == operators),
            "no service is called {operators} any more"
        );
    }
    let nodes = services.iter().filter(|s| !OPERATORS.contains(&s.name()));
    for method in nodes.flat_map(prost_reflect::ServiceDescriptor::methods) {
        reach(&method.input(), &mut fields, &mut words);
    }
    let manifest = signed_by_nodes(&pool, DeltaManifest::TYPE).expect("the protocol has it");
    reach(&manifest, &mut fields, &mut words);

    let listed = self::fields();
    let missing: Vec<_> = fields.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "a node can send these, and docs/egress.md does not say so: {missing:?}"
    );
    let gone: Vec<_> = listed.difference(&fields).collect();
    assert!(
        gone.is_empty(),
        "docs/egress.md lists what no node can send: {gone:?}"
    );
    let unsaid: Vec<_> = words
        .iter()
        .filter(|w| !DOCUMENT.contains(&format!("`{w}`")))
        .collect();
    assert!(
        unsaid.is_empty(),
        "docs/egress.md does not explain these words: {unsaid:?}"
    );
}

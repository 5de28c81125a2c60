//! The order of a message's fields on the wire, worked out once per type.

use crate::schema::StructType;

/// What a field number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A field of the struct, by position.
    Field(u16),
    /// A nested message whose fields JSON shows in this struct.
    Embed(u16),
}

/// The fields of one message, by ascending number.
pub(super) type Layout = Box<[(u32, Target)]>;

/// How a struct type is laid out as a message.
#[derive(Debug)]
pub(super) struct Plan {
    pub message: Layout,
    pub embeds: Box<[Layout]>,
    /// Protobuf knows at least one of the fields, or there are none.
    pub marshalable: bool,
}

impl Plan {
    pub fn new(ty: &StructType) -> Plan {
        let mut message = Vec::new();
        let mut embeds = vec![Vec::new(); ty.proto_embeds.len()];
        for (i, embed) in ty.proto_embeds.iter().enumerate() {
            let place = match embed.parent {
                Some(parent) => &mut embeds[usize::from(parent)],
                None => &mut message,
            };
            place.push((embed.number, Target::Embed(i as u16)));
        }
        for (i, field) in ty.fields.iter().enumerate().filter(|(_, field)| field.proto != 0) {
            let place = match field.proto_embed {
                Some(embed) => &mut embeds[usize::from(embed)],
                None => &mut message,
            };
            place.push((field.proto, Target::Field(i as u16)));
        }
        let type_meta_only = ty.fields.iter().all(|f| &*f.json == "kind" || &*f.json == "apiVersion");
        Plan {
            marshalable: !message.is_empty() || type_meta_only,
            message: sorted(message),
            embeds: embeds.into_iter().map(sorted).collect(),
        }
    }
}

fn sorted(mut layout: Vec<(u32, Target)>) -> Layout {
    layout.sort_by_key(|(number, _)| *number);
    layout.into()
}

/// The target of a number.
pub(super) fn target(layout: &Layout, number: u32) -> Option<Target> {
    layout.binary_search_by_key(&number, |(n, _)| *n).ok().map(|i| layout[i].1)
}

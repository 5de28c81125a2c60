//! Reads the schema table of the built-in types: `apimachinery/schema/v1.37.schema`.
//!
//! The file is written by `xtask/schema-gen` and never by hand. Its lines are columns separated by tabs:
//!
//! - `kubernetes`, version: the first line.
//! - `=`, definition name, then any of `atomic`, `kind=group/version/Kind`, `union=discriminator:member,…` and
//!   `embed=number:GoType[:parent]`: opens a struct type.
//! - JSON name, type, Go type, flags (`p` pointer, `e` omitempty, `z` omitzero, `r` required, `d` described),
//!   protobuf number (`embed.number` inside an embed), then any of `patch=strategy,…:key`, `struct=atomic|granular`,
//!   `enum=a|b` and `default=JSON`: a field of it.
//!
//! A type is a word for a scalar, a definition name (`.Name` in the same package), `[kind]T` for a list with `!` for a
//! wrapped and `*` for pointer items before `T`, or `{kind}T` for a map.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Field, ListKind, ListType, MapType, PatchStrategy, ProtoEmbed, SchemaOr, StructType, Type, TypeId, Types};

static BUILTIN: LazyLock<Types> = LazyLock::new(|| parse(include_str!("../../schema/v1.37.schema")).expect("a test reads the same table"));

/// The types of the Kubernetes minor version that is served.
pub fn builtin() -> &'static Types {
    &BUILTIN
}

/// What is wrong with a table, and in which line, counted from one.
#[derive(Debug, thiserror::Error)]
#[error("schema table, line {line}: {what}")]
struct TableError {
    line: usize,
    what: String,
}

fn parse(text: &str) -> Result<Types, TableError> {
    let ids: HashMap<&str, TypeId> = text
        .lines()
        .filter_map(|l| l.strip_prefix("=\t"))
        .enumerate()
        .map(|(i, l)| (l.split('\t').next().unwrap_or(l), TypeId(i as u32)))
        .collect();
    let mut structs: Vec<StructType> = Vec::with_capacity(ids.len());
    for (i, line) in text.lines().enumerate().skip(1) {
        let at = |what: String| TableError { line: i + 1, what };
        if let Some(head) = line.strip_prefix("=\t") {
            structs.push(parse_struct(head).map_err(at)?);
            continue;
        }
        let open = structs.last_mut().ok_or_else(|| at("a field outside a type".into()))?;
        let package = open.name.rsplit_once('.').map_or("", |(package, _)| package);
        let field = parse_field(line, &Names { ids: &ids, package }).map_err(at)?;
        open.by_json.insert(field.json.clone(), open.fields.len() as u16);
        open.fields.push(field);
    }
    Ok(Types::new(structs))
}

fn parse_struct(head: &str) -> Result<StructType, String> {
    let mut columns = head.split('\t');
    let name = columns.next().unwrap_or_default();
    let go_name = name.rsplit_once('.').map_or(name, |(_, last)| last);
    let mut out = StructType { name: name.into(), go_name: go_name.into(), ..StructType::default() };
    for column in columns {
        let (key, value) = column.split_once('=').unwrap_or((column, ""));
        match key {
            "atomic" => out.atomic = true,
            "kind" => {
                let mut parts = value.splitn(3, '/').map(Box::from);
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(group), Some(version), Some(kind)) => out.kinds.push((group, version, kind)),
                    _ => return Err(format!("kind {value}")),
                }
            }
            "union" => {
                let (discriminator, members) = value.split_once(':').ok_or_else(|| format!("union {value}"))?;
                out.unions.push((discriminator.into(), members.split(',').map(Box::from).collect()));
            }
            "embed" => {
                let mut parts = value.split(':');
                let number = parse_number(parts.next().unwrap_or_default())?;
                let name = parts.next().ok_or_else(|| format!("embed {value}"))?.into();
                let parent = parts.next().map(parse_number).transpose()?;
                out.proto_embeds.push(ProtoEmbed { number, name, parent });
            }
            _ => return Err(format!("column {column}")),
        }
    }
    Ok(out)
}

fn parse_number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("number {text:?}"))
}

fn parse_field(line: &str, names: &Names<'_>) -> Result<Field, String> {
    let mut columns = line.split('\t');
    let mut column = || columns.next().ok_or_else(|| "a column is missing".to_owned());
    let (json, ty, go_type, flags, number) = (column()?, column()?, column()?, column()?, column()?);
    let (proto_embed, proto) = match number.split_once('.') {
        Some((embed, number)) => (Some(parse_number(embed)?), parse_number(number)?),
        None => (None, parse_number(number)?),
    };
    let mut out = Field {
        json: json.into(),
        ty: names.parse_type(ty)?,
        go_type: go_type.into(),
        pointer: flags.contains('p'),
        omit_empty: flags.contains('e'),
        omit_zero: flags.contains('z'),
        required: flags.contains('r'),
        described: flags.contains('d'),
        default: None,
        proto,
        proto_embed,
        patch_strategy: PatchStrategy::default(),
        patch_merge_key: "".into(),
        atomic: None,
        enum_values: Vec::new(),
    };
    for column in columns {
        match column.split_once('=').ok_or_else(|| format!("column {column}"))? {
            ("patch", value) => {
                let (strategies, key) = value.split_once(':').ok_or_else(|| format!("patch {value}"))?;
                out.patch_strategy = parse_strategy(strategies)?;
                out.patch_merge_key = key.into();
            }
            ("struct", kind) => out.atomic = Some(kind == "atomic"),
            ("enum", values) => out.enum_values = values.split('|').map(Box::from).collect(),
            ("default", value) => out.default = Some(serde_json::from_str(value).map_err(|e| e.to_string())?),
            (key, _) => return Err(format!("column {key}")),
        }
    }
    Ok(out)
}

fn parse_strategy(text: &str) -> Result<PatchStrategy, String> {
    let mut out = PatchStrategy::default();
    for word in text.split(',').filter(|w| !w.is_empty()) {
        match word {
            "merge" => out.merge = true,
            "replace" => out.replace = true,
            "retainKeys" => out.retain_keys = true,
            _ => return Err(format!("patch strategy {word}")),
        }
    }
    Ok(out)
}

/// The definition names of the table, and the package that short names are in.
struct Names<'a> {
    ids: &'a HashMap<&'a str, TypeId>,
    package: &'a str,
}

impl Names<'_> {
    fn parse_type(&self, text: &str) -> Result<Type, String> {
        if let Some((kind, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
            let (wrapped_in_proto, rest) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest));
            let (item_pointer, rest) = rest.strip_prefix('*').map_or((false, rest), |rest| (true, rest));
            let list_kind = match kind.split_once(':') {
                Some(("map", keys)) => ListKind::Map(keys.split(',').map(Box::from).collect()),
                None if kind == "set" => ListKind::Set,
                None if kind.is_empty() || kind == "atomic" => ListKind::Atomic,
                _ => return Err(format!("list type {kind}")),
            };
            let item = self.parse_type(rest)?;
            return Ok(Type::List(Box::new(ListType {
                item,
                kind: list_kind,
                declared: !kind.is_empty(),
                item_pointer,
                wrapped_in_proto,
            })));
        }
        if let Some((kind, rest)) = text.strip_prefix('{').and_then(|t| t.split_once('}')) {
            let value = self.parse_type(rest)?;
            return Ok(Type::Map(Box::new(MapType { value, atomic: kind == "atomic", declared: !kind.is_empty() })));
        }
        Ok(match text {
            "string" => Type::String,
            "bool" => Type::Bool,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "uint8" => Type::Uint(8),
            "uint16" => Type::Uint(16),
            "uint32" => Type::Uint(32),
            "uint64" => Type::Uint(64),
            "float" => Type::Float,
            "bytes" => Type::Bytes,
            "quantity" => Type::Quantity,
            "intorstring" => Type::IntOrString,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "duration" => Type::Duration,
            "fieldsv1" => Type::FieldsV1,
            "raw" => Type::RawExtension,
            "json" => Type::Json,
            "orbool" => Type::SchemaOr(SchemaOr::Bool),
            "orarray" => Type::SchemaOr(SchemaOr::Array),
            "orstrings" => Type::SchemaOr(SchemaOr::StringArray),
            name => Type::Struct(self.find(name)?),
        })
    }

    fn find(&self, name: &str) -> Result<TypeId, String> {
        let id = match name.strip_prefix('.') {
            Some(short) => self.ids.get(format!("{}.{short}", self.package).as_str()),
            None => self.ids.get(name),
        };
        id.copied().ok_or_else(|| format!("type {name} is not in the table"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::element_go_type;

    fn field<'a>(definition: &str, name: &str) -> &'a Field {
        let types = builtin();
        let id = types.lookup(definition).unwrap_or_else(|| panic!("{definition} is not in the table"));
        types.get(id).field(name).unwrap_or_else(|| panic!("{definition} has no {name}"))
    }

    #[test]
    fn every_served_kind_is_found() {
        let served = [
            (
                "",
                "v1",
                "Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim PersistentVolume Pod PodTemplate ReplicationController ResourceQuota Secret ServiceAccount Service Status List",
            ),
            (
                "admissionregistration.k8s.io",
                "v1",
                "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration",
            ),
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition ConversionReview"),
            ("apiregistration.k8s.io", "v1", "APIService"),
            ("apps", "v1", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
            ("authentication.k8s.io", "v1", "SelfSubjectReview TokenReview TokenRequest"),
            ("authorization.k8s.io", "v1", "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview"),
            ("autoscaling", "v1", "HorizontalPodAutoscaler Scale"),
            ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            ("batch", "v1", "CronJob Job"),
            ("certificates.k8s.io", "v1", "CertificateSigningRequest ClusterTrustBundle PodCertificateRequest"),
            ("coordination.k8s.io", "v1", "Lease"),
            ("discovery.k8s.io", "v1", "EndpointSlice"),
            ("events.k8s.io", "v1", "Event"),
            ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema PriorityLevelConfiguration"),
            ("networking.k8s.io", "v1", "IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR"),
            ("node.k8s.io", "v1", "RuntimeClass"),
            ("policy", "v1", "PodDisruptionBudget Eviction"),
            ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding ClusterRole RoleBinding Role"),
            ("resource.k8s.io", "v1", "DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice"),
            ("scheduling.k8s.io", "v1", "PriorityClass"),
            ("storage.k8s.io", "v1", "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass"),
            ("storagemigration.k8s.io", "v1", "StorageVersionMigration"),
            ("admission.k8s.io", "v1", "AdmissionReview"),
            ("meta.k8s.io", "v1", "Table PartialObjectMetadata PartialObjectMetadataList"),
        ];
        for (group, version, kinds) in served {
            for kind in kinds.split(' ') {
                assert!(builtin().by_kind(group, version, kind).is_some(), "{group}/{version} {kind}");
            }
        }
        for name in ["DeleteOptions", "WatchEvent", "ListOptions", "PatchOptions", "ManagedFieldsEntry"] {
            assert!(builtin().lookup(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")).is_some(), "{name}");
        }
    }

    #[test]
    fn container_ports_are_keyed_by_port_and_protocol() {
        let ports = field("io.k8s.api.core.v1.Container", "ports");
        let Type::List(list) = &ports.ty else { panic!("{ports:?}") };
        assert_eq!(list.kind, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert!(ports.patch_strategy.merge);
        assert_eq!(&*ports.patch_merge_key, "containerPort");
        let protocol = field("io.k8s.api.core.v1.ContainerPort", "protocol");
        assert_eq!(protocol.default, Some("TCP".into()));
        assert_eq!(protocol.enum_values, ["SCTP", "TCP", "UDP"].map(Box::from));
    }

    #[test]
    fn a_volumes_source_is_inline_in_json_and_nested_in_protobuf() {
        let types = builtin();
        let volume = types.get(types.lookup("io.k8s.api.core.v1.Volume").expect("Volume"));
        assert_eq!((volume.proto_embeds[0].number, &*volume.proto_embeds[0].name), (2, "VolumeSource"));
        let host_path = volume.field("hostPath").expect("hostPath");
        assert_eq!((host_path.proto, host_path.proto_embed, host_path.pointer), (1, Some(0), true));
        let name = volume.field("name").expect("name");
        assert_eq!((name.proto, name.proto_embed, name.required), (1, None, true));
        let rule = types.get(types.lookup("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").expect("rule"));
        assert_eq!(rule.proto_embeds[1].parent, Some(0));
        assert_eq!(rule.field("apiGroups").map(|f| (f.proto_embed, f.proto)), Some((Some(1), 1)));
    }

    #[test]
    fn fields_carry_what_go_and_patches_need() {
        let strategy = field("io.k8s.api.apps.v1.DeploymentSpec", "strategy");
        assert!(!strategy.pointer && strategy.omit_empty && strategy.patch_strategy.retain_keys);
        assert_eq!(&*strategy.go_type, "v1.DeploymentStrategy");
        let replicas = field("io.k8s.api.apps.v1.DeploymentSpec", "replicas");
        assert!(replicas.pointer && replicas.omit_empty && !replicas.required);
        let kind = field("io.k8s.api.core.v1.Pod", "kind");
        assert_eq!((kind.proto, kind.proto_embed), (0, None));
        assert_eq!(field("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef").atomic, Some(false));
        let extra = field("io.k8s.api.authentication.v1.UserInfo", "extra");
        let Type::Map(map) = &extra.ty else { panic!("{extra:?}") };
        assert!(matches!(&map.value, Type::List(l) if l.wrapped_in_proto && l.item == Type::String));
        assert_eq!(element_go_type(&extra.go_type), "v1.ExtraValue");
        assert_eq!(element_go_type("[]*v1.X"), "v1.X");
        assert_eq!(element_go_type(&field("io.k8s.api.core.v1.ResourceRequirements", "limits").go_type), "resource.Quantity");
    }

    #[test]
    fn fields_stand_in_the_order_of_their_declaration() {
        let types = builtin();
        let pod = types.get(types.by_kind("", "v1", "Pod").expect("Pod"));
        let names: Vec<&str> = pod.fields.iter().map(|f| &*f.json).collect();
        assert_eq!(names, ["kind", "apiVersion", "metadata", "spec", "status"]);
        assert_eq!(pod.kinds, [("".into(), "v1".into(), "Pod".into())]);
    }
}

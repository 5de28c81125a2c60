//! Fields of the interface that are newer than the message types in use.
//!
//! A protobuf reader merges an embedded message that occurs twice, and appends what is repeated: so these fields travel as a second,
//! partial request behind the first.

use prost::Message;

/// What a container's configuration has beyond [`super::v1::ContainerConfig`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerExtension {
    /// CRI's number of the signal that stops the container; zero leaves it to the image.
    pub stop_signal: i32,
    /// Mounts with newer fields, after those of the configuration proper.
    pub mounts: Vec<Mount>,
}

impl ContainerExtension {
    pub fn is_empty(&self) -> bool {
        self.stop_signal == 0 && self.mounts.is_empty()
    }

    /// The partial request to be put behind the first.
    pub(super) fn encode(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let config = PartialConfig { mounts: self.mounts.clone(), stop_signal: self.stop_signal };
        PartialRequest { config: Some(config) }.encode_to_vec()
    }
}

#[derive(Clone, PartialEq, Message)]
struct PartialRequest {
    #[prost(message, optional, tag = "2")]
    config: Option<PartialConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialConfig {
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(int32, tag = "18")]
    stop_signal: i32,
}

/// A mount with all fields of CRI as of v1.37.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub container_path: String,
    #[prost(string, tag = "2")]
    pub host_path: String,
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    #[prost(bool, tag = "4")]
    pub selinux_relabel: bool,
    #[prost(enumeration = "super::v1::MountPropagation", tag = "5")]
    pub propagation: i32,
    #[prost(message, repeated, tag = "6")]
    pub uid_mappings: Vec<super::v1::IdMapping>,
    #[prost(message, repeated, tag = "7")]
    pub gid_mappings: Vec<super::v1::IdMapping>,
    #[prost(bool, tag = "8")]
    pub recursive_read_only: bool,
    #[prost(message, optional, tag = "9")]
    pub image: Option<super::v1::ImageSpec>,
    #[prost(string, tag = "10")]
    pub image_sub_path: String,
}

#[cfg(test)]
mod tests {
    use super::super::v1;
    use super::*;

    #[test]
    fn a_reader_merges_the_extension_into_the_request() {
        let mount = |path: &str| v1::Mount { container_path: path.to_owned(), ..Default::default() };
        let config = v1::ContainerConfig { log_path: "a/0.log".to_owned(), mounts: vec![mount("/a")], ..Default::default() };
        let request = v1::CreateContainerRequest { config: Some(config), ..Default::default() };
        let extension = ContainerExtension {
            stop_signal: 12,
            mounts: vec![Mount { container_path: "/b".to_owned(), image_sub_path: "c".to_owned(), ..Default::default() }],
        };
        let mut bytes = request.encode_to_vec();
        bytes.extend(extension.encode());
        let read = v1::CreateContainerRequest::decode(bytes.as_slice()).expect("it is well formed").config.expect("it is there");
        assert_eq!(read.log_path, "a/0.log");
        assert_eq!(read.mounts, [mount("/a"), mount("/b")]);
        let newer = PartialRequest::decode(bytes.as_slice()).expect("it is well formed").config.expect("it is there");
        assert_eq!((newer.stop_signal, newer.mounts[1].image_sub_path.as_str()), (12, "c"));
    }
}

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::spec::NetnsRef;

/// What is written at the hub's end of a leg, in its alias: which address the leg has, even while
/// its container cannot be looked into, and where the container is, once the spec says no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Key of the leg.
    pub(super) key: String,
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// Its container; none if the path has no room.
    pub(super) netns: Option<NetnsRef>,
}

const PREFIX: &str = "weft-gw:";

/// The kernel's limit (`IFALIASZ`) without the closing zero.
const LENGTH_MAX: usize = 255;

impl Record {
    /// The alias.
    pub(super) fn to_alias(&self) -> String {
        let short = format!("{PREFIX}{} {}", self.key, self.address);
        let place = self.netns.as_ref().and_then(|netns| {
            let path = netns.path.to_str().filter(|path| !path.contains('\n'))?;
            Some(format!("{short} {}:{} {path}", netns.device, netns.inode))
        });
        place
            .filter(|long| long.len() <= LENGTH_MAX)
            .unwrap_or(short)
    }

    /// Reads an alias; `None` if it is not one of ours.
    pub(super) fn from_alias(alias: &str) -> Option<Self> {
        let mut parts = alias.strip_prefix(PREFIX)?.splitn(4, ' ');
        let key = parts.next()?.to_owned();
        let address = parts.next()?.parse().ok()?;
        let netns = match (parts.next(), parts.next()) {
            (Some(numbers), Some(path)) => {
                let (device, inode) = numbers.split_once(':')?;
                Some(NetnsRef {
                    path: PathBuf::from(path),
                    device: device.parse().ok()?,
                    inode: inode.parse().ok()?,
                })
            }
            _ => None,
        };
        Some(Self {
            key,
            address,
            netns,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(path: &str) -> Record {
        Record {
            key: "4026532621".to_owned(),
            address: Ipv4Addr::new(192, 168, 240, 2),
            netns: Some(NetnsRef {
                path: path.into(),
                device: 4,
                inode: 4_026_532_621,
            }),
        }
    }

    #[test]
    fn a_record_is_read_back() {
        let with = record("/run/net ns/blue");
        assert_eq!(
            with.to_alias(),
            "weft-gw:4026532621 192.168.240.2 4:4026532621 /run/net ns/blue"
        );
        assert_eq!(Record::from_alias(&with.to_alias()), Some(with));
    }

    #[test]
    fn a_path_that_has_no_room_is_left_out() {
        let long = record(&format!("/{}", "x".repeat(255)));
        let read = Record::from_alias(&long.to_alias());
        assert_eq!(
            read,
            Some(Record {
                netns: None,
                ..long
            })
        );
    }

    #[test]
    fn other_aliases_are_no_records() {
        for alias in [
            "",
            "weft:endpoint",
            "weft-gw:",
            "weft-gw:key",
            "weft-gw:key address",
            "weft-gw:key 10.0.0.2 numbers /path",
        ] {
            assert_eq!(Record::from_alias(alias), None, "{alias}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_alias_nothing_panics(alias in "(weft-gw:)?[ -~]{0,60}") {
            if let Some(record) = Record::from_alias(&alias) {
                prop_assert!(record.to_alias().len() <= LENGTH_MAX);
            }
        }
    }
}

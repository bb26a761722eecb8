//! Images of networks without their macvlans. CRIU makes a macvlan on a device of the network that CRIU itself is in, and on no other.

use criu_proto::images::net::{NetDeviceEntry, NetDeviceType};
use serde::{Deserialize, Serialize};

use crate::amend::ids;
#[cfg(doc)]
use crate::error::CriuError;
use crate::error::{Result, bad};
use crate::images::{ChangedFiles, Images, Magic};

/// A macvlan on a device of its own network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Macvlan {
    /// CRIU's number of the network.
    pub network: u32,
    /// The device's number in the network.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The number of the device below it.
    pub parent: u32,
    /// Its mode (linux/if_link.h, MACVLAN_MODE_…).
    pub mode: u32,
    /// The flags of a macvlan (MACVLAN_FLAG_…).
    pub mode_flags: Option<u16>,
    /// The flags of a device (IFF_…).
    pub flags: u32,
    /// The longest packet.
    pub mtu: u32,
    /// The hardware address.
    pub address: Vec<u8>,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
}

impl Images {
    /// The images of networks without macvlans on devices of the same network, and these macvlans. Those that are `moved` into
    /// the network are veths in the images: CRIU takes a device of any kind for one that it is to move, but looks for it only then.
    ///
    /// # Errors
    /// [`CriuError::Image`] if an image is malformed, or has a macvlan without the device below it.
    pub fn without_macvlans(&self, moved: &[&str]) -> Result<(ChangedFiles, Vec<Macvlan>)> {
        let (mut changed, mut macvlans) = (ChangedFiles::new(), Vec::new());
        for name in self.names()? {
            let Some(network) = network_of(&name, "netdev") else { continue };
            let all: Vec<NetDeviceEntry> = self.entries(&name, Magic::NETDEV)?.collect::<Result<_>>()?;
            let mut rest = Vec::with_capacity(all.len());
            let mut is_changed = false;
            for device in &all {
                if device.type_() != NetDeviceType::MACVLAN {
                    rest.push(device.clone());
                    continue;
                }
                if device.peer_nsid == Some(network) {
                    is_changed = true;
                    let macvlan = macvlan(device, network, &all);
                    macvlans.push(macvlan.map_err(|problem| bad(&self.dir().join(&name), problem))?);
                    continue;
                }
                let mut device = device.clone();
                if moved.contains(&device.name()) {
                    is_changed = true;
                    device.type_ = Some(NetDeviceType::VETH.into());
                    device.macvlan = None.into();
                }
                rest.push(device);
            }
            if is_changed {
                let image = self.encode(&name, Magic::NETDEV, &rest)?;
                changed.push((name, image));
            }
        }
        Ok((changed, macvlans))
    }
}

impl Images {
    /// CRIU's number of the network namespace of a task, which has this number in its own pid namespace.
    ///
    /// # Errors
    /// [`CriuError::Image`] if an image is malformed.
    pub fn network_of_task(&self, pid: u32) -> Result<Option<u32>> {
        Ok(ids(self, pid)?.and_then(|ids| ids.net_ns_id))
    }
}

/// The number of a network in the name of its image: 9 in `netdev-9.img`.
pub fn network_of(name: &str, kind: &str) -> Option<u32> {
    name.strip_prefix(kind)?.strip_prefix('-')?.strip_suffix(".img")?.parse().ok()
}

fn macvlan(
    device: &NetDeviceEntry,
    network: u32,
    all: &[NetDeviceEntry],
) -> std::result::Result<Macvlan, String> {
    let parent = device.peer_ifindex();
    let is_parent =
        |other: &&NetDeviceEntry| other.ifindex() == parent && other.type_() != NetDeviceType::MACVLAN;
    let shown = device.name().escape_debug();
    if all.iter().find(is_parent).is_none() {
        return Err(format!("has no device {parent}, on which the macvlan {shown} is"));
    }
    let flags = device.macvlan.flags.map(u16::try_from).transpose();
    Ok(Macvlan {
        network,
        index: device.ifindex(),
        name: device.name().to_owned(),
        parent,
        mode: device.macvlan.mode(),
        mode_flags: flags.map_err(|_| format!("has flags of the macvlan {shown} that are none"))?,
        flags: device.flags(),
        mtu: device.mtu(),
        address: device.address().to_vec(),
        master: device.master,
    })
}

#[cfg(test)]
mod tests {
    use criu_proto::images::inventory::InventoryEntry;
    use criu_proto::images::net::MacvlanLinkEntry;

    use super::*;
    use crate::fixtures::write;
    use crate::images::{COMMON, INVENTORY, INVENTORY_FILE};

    fn device(type_: NetDeviceType, index: u32, name: &str, peer: (u32, Option<u32>)) -> NetDeviceEntry {
        let macvlan = MacvlanLinkEntry { mode: Some(4), flags: Some(1), ..MacvlanLinkEntry::default() };
        NetDeviceEntry {
            type_: Some(type_.into()),
            ifindex: Some(index),
            mtu: Some(1400),
            flags: Some(0x1003),
            name: Some(name.into()),
            address: Some(vec![2, 0, 0, 0, 0, 1]),
            macvlan: (type_ == NetDeviceType::MACVLAN).then_some(macvlan).into(),
            peer_ifindex: Some(peer.0),
            peer_nsid: peer.1,
            ..NetDeviceEntry::default()
        }
    }

    fn images(devices: &[NetDeviceEntry]) -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let inventory = InventoryEntry { img_version: Some(2), ..InventoryEntry::default() };
        write(&dir, INVENTORY_FILE, &[INVENTORY], &[inventory]);
        write(&dir, "netdev-9.img", &[COMMON, Magic::NETDEV.0], devices);
        let images = Images::open(dir.path()).unwrap();
        (dir, images)
    }

    fn left(changed: &ChangedFiles) -> Vec<(NetDeviceType, String)> {
        let (dir, _) = images(&[]);
        let [(name, content)] = changed.as_slice() else { panic!("{} files", changed.len()) };
        std::fs::write(dir.path().join(name), content).unwrap();
        let images = Images::open(dir.path()).unwrap();
        let entries = images.entries::<NetDeviceEntry>(name, Magic::NETDEV).unwrap();
        entries.map(|entry| entry.unwrap()).map(|entry| (entry.type_(), entry.name().to_owned())).collect()
    }

    #[test]
    fn a_macvlan_on_a_device_of_its_network_is_left_out() {
        let veth = device(NetDeviceType::VETH, 3, "va", (4, Some(9)));
        let (_dir, found) = images(&[veth, device(NetDeviceType::MACVLAN, 5, "m0", (3, Some(9)))]);
        let (changed, macvlans) = found.without_macvlans(&["m0"]).unwrap();
        let expected = Macvlan {
            network: 9,
            index: 5,
            name: "m0".into(),
            parent: 3,
            mode: 4,
            mode_flags: Some(1),
            flags: 0x1003,
            mtu: 1400,
            address: vec![2, 0, 0, 0, 0, 1],
            master: None,
        };
        assert_eq!(macvlans, [expected]);
        assert_eq!(left(&changed), [(NetDeviceType::VETH, "va".to_owned())]);
    }

    #[test]
    fn a_macvlan_that_moves_in_is_a_veth_for_criu() {
        let (_dir, found) = images(&[device(NetDeviceType::MACVLAN, 5, "m0", (3, None))]);
        let (changed, macvlans) = found.without_macvlans(&["m0"]).unwrap();
        assert_eq!(macvlans, []);
        assert_eq!(left(&changed), [(NetDeviceType::VETH, "m0".to_owned())]);
        // CRIU says then that it needs the device below.
        assert_eq!(found.without_macvlans(&[]).unwrap(), Default::default());
    }

    #[test]
    fn a_macvlan_without_the_device_below_is_refused() {
        let (_dir, found) = images(&[device(NetDeviceType::MACVLAN, 5, "m0", (3, Some(9)))]);
        let error = found.without_macvlans(&[]).unwrap_err().to_string();
        assert!(error.contains("has no device 3, on which the macvlan m0 is"), "{error}");
    }

    #[test]
    fn networks_are_numbered_by_the_names_of_their_images() {
        assert_eq!(network_of("ifaddr-9.img", "ifaddr"), Some(9));
        for other in ["netdev-9.img", "ifaddr.img", "ifaddr-.img", "ifaddr-9.img.gz"] {
            assert_eq!(network_of(other, "ifaddr"), None, "{other}");
        }
    }
}

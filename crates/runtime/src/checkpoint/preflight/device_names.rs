//! Names of devices that CRIU's restore would need twice. It makes a veth without a name for its other end, which the kernel then
//! calls vethN for a moment; where another device is to have that name, or the first end itself, the restore fails.

use std::collections::{HashMap, HashSet};

use hiber_sandbox::network::Device;

/// Goes through a restore of these devices, in the order of CRIU's net.c; gives the name that would be taken.
pub(super) fn taken_twice(devices: &[Device]) -> Option<&str> {
    let mut names: HashSet<String> = devices.iter().filter(|d| d.loopback).map(|d| d.name.clone()).collect();
    let mut made: HashSet<u32> = devices.iter().filter(|d| d.loopback).map(|d| d.index).collect();
    let mut temporary: HashMap<u32, String> = HashMap::new();
    loop {
        let before = made.len();
        // The last that the kernel lists comes first.
        for device in devices.iter().rev() {
            let waits = device.master.is_some_and(|master| !made.contains(&master));
            if waits || !made.insert(device.index) {
                continue;
            }
            let peer = device.peer().filter(|peer| devices.iter().any(|d| d.index == *peer));
            match (temporary.get(&device.index), peer) {
                (Some(name), _) => {
                    names.remove(name);
                }
                (None, Some(peer)) => {
                    let mut free = (0..).map(|n| format!("veth{n}")).filter(|name| !names.contains(name));
                    let name = free.next().unwrap_or_default();
                    names.insert(name.clone());
                    temporary.insert(peer, name);
                }
                (None, None) => {}
            }
            if !names.insert(device.name.clone()) {
                return Some(&device.name);
            }
        }
        if made.len() == before {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, name, the other end's number, the bridge's.
    fn devices(all: &[(u32, &str, u32, u32)]) -> Vec<Device> {
        let some = |number: u32| (number != 0).then_some(number);
        let device = |&(index, name, peer, master): &(u32, &str, u32, u32)| Device {
            index,
            name: name.into(),
            kind: Some(if peer == 0 { "bridge" } else { "veth" }.into()),
            below: some(peer),
            master: some(master),
            ..Device::default()
        };
        let lo = Device { index: 1, name: "lo".into(), loopback: true, ..Device::default() };
        [lo].into_iter().chain(all.iter().map(device)).collect()
    }

    #[test]
    fn names_that_collide_for_a_moment_are_found() {
        let ok = |all: &[_]| assert_eq!(taken_twice(&devices(all)), None, "{all:?}");
        let bad = |all: &[_], name| assert_eq!(taken_twice(&devices(all)), Some(name), "{all:?}");
        ok(&[(2, "vb", 3, 0), (3, "va", 2, 0)]);
        // as `ip link add va type veth` makes them
        ok(&[(2, "veth0", 3, 0), (3, "va", 2, 0)]);
        ok(&[(2, "veth0", 3, 0), (3, "va", 2, 0), (4, "veth1", 5, 0), (5, "vc", 4, 0)]);
        // as `ip link add type veth` does
        ok(&[(2, "veth0", 3, 0), (3, "veth1", 2, 0)]);
        bad(&[(2, "veth1", 3, 0), (3, "veth0", 2, 0)], "veth0");
        bad(&[(2, "va", 3, 0), (3, "veth0", 2, 0)], "veth0");
        // the first end waits for its bridge
        bad(&[(2, "br0", 0, 0), (3, "veth0", 4, 0), (4, "va", 3, 2)], "veth0");
        ok(&[(2, "br0", 0, 0), (3, "vb", 4, 0), (4, "va", 3, 2)]);
    }
}

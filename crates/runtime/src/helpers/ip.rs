//! Macvlans, made in ip's place.
//!
//! CRIU makes a macvlan only on a device of the network that CRIU itself is in. A container's macvlan on another device of the
//! container's is left out of the images that CRIU gets. It cannot wait until CRIU is done with the network: addresses and routes need
//! the device. In between, CRIU runs `ip addr restore` in each network. Under the name `ip` CRIU finds this program, which makes
//! the network's macvlans, and then becomes the real ip.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use hiber_criu::{ImageDirectory, Macvlan, network_of};
use hiber_sandbox::network;

use super::stand_in;
use crate::error::{Error, Result};

/// The name that CRIU calls.
pub(crate) const NAME: &str = "ip";
/// The file with the macvlans, beside the links.
const MACVLANS: &str = "macvlans.json";
/// Files with the addresses that CRIU gives to ip in a network, by which the network is known: it has no name there.
const ADDRESSES: &str = "addresses";
/// Empty files that say in which networks the macvlans were made.
const MADE: &str = "made";

/// No honest image of addresses is longer, in bytes.
const MAX_SIZE: u64 = 64 << 20;

/// The macvlans of a restore.
#[derive(Debug)]
pub(crate) struct Macvlans {
    networks: Vec<u32>,
    directory: PathBuf,
}

impl Macvlans {
    /// Leaves the macvlans in the directory of the links where this program, under the name of ip, looks for them.
    ///
    /// # Errors
    /// If the files cannot be written, or two networks cannot be told apart.
    pub(crate) fn leave(directory: &Path, images: &ImageDirectory, macvlans: &[Macvlan]) -> Result<Self> {
        let mut networks: Vec<u32> = macvlans.iter().map(|macvlan| macvlan.network).collect();
        networks.sort_unstable();
        networks.dedup();
        let mut seen = Vec::new();
        for (name, number) in
            images.names()?.iter().filter_map(|name| Some((name, network_of(name, "ifaddr")?)))
        {
            let failed = |e: std::io::Error| Error::file(&images.path().join(name), &e);
            let mut addresses = Vec::new();
            let file = images.file(name).map_err(failed)?;
            file.take(MAX_SIZE).read_to_end(&mut addresses).map_err(failed)?;
            if seen.contains(&addresses) {
                let why = "holds the addresses of another network, too: which of the two has a macvlan cannot be told";
                return Err(Error::File { path: images.path().join(name), why: why.into() });
            }
            if networks.contains(&number) {
                write(directory, &format!("{ADDRESSES}-{number}"), &addresses)?;
            }
            seen.push(addresses);
        }
        let json = serde_json::to_vec(macvlans).map_err(|e| Error::internal("encode macvlans", e))?;
        write(directory, MACVLANS, &json)?;
        Ok(Self { networks, directory: directory.to_owned() })
    }

    /// Fails if CRIU has not called this program in each network that has macvlans.
    pub(crate) fn check_made(&self) -> Result<()> {
        let is_missing = |number: &&u32| !self.directory.join(format!("{MADE}-{number}")).exists();
        match self.networks.iter().find(is_missing) {
            Some(number) => Err(Error::Invalid(format!(
                "the macvlans of the checkpoint's network {number} were not made: CRIU ran another program as ip (CR_IP_TOOL), or none"
            ))),
            None => Ok(()),
        }
    }
}

fn write(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, content).map_err(|e| Error::file(&path, &e))
}

/// Acts as ip, with these arguments.
pub(crate) fn run(args: &[OsString]) -> ! {
    if args == [OsStr::new("addr"), OsStr::new("restore")]
        && let Err(e) = make()
    {
        // Nobody listens but CRIU's log.
        let _ = writeln!(std::io::stderr(), "hiber as ip: {e}");
        std::process::exit(2);
    }
    stand_in::become_real(NAME, |command| {
        command.args(args);
    })
}

/// Makes the macvlans of the network that this process is in.
fn make() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let Some(directory) = stand_in::directory() else { return Ok(()) };
    let macvlans: Vec<Macvlan> = serde_json::from_slice(&std::fs::read(directory.join(MACVLANS))?)?;
    let mut given = std::fs::File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut addresses = Vec::new();
    given.read_to_end(&mut addresses)?;
    given.rewind()?;
    let mut here = None;
    for macvlan in &macvlans {
        if here.is_none()
            && std::fs::read(directory.join(format!("{ADDRESSES}-{}", macvlan.network)))? == addresses
        {
            here = Some(macvlan.network);
        }
    }
    let Some(here) = here else { return Ok(()) };
    for macvlan in macvlans.into_iter().filter(|macvlan| macvlan.network == here) {
        let Macvlan { network: _, index, name, parent, mode, mode_flags, flags, mtu, address, master } =
            macvlan;
        let device = network::Macvlan { index, name, parent, mode, mode_flags, flags, mtu, address, master };
        device.make().map_err(|e| crate::error::chain(&e))?;
    }
    std::fs::write(directory.join(format!("{MADE}-{here}")), b"")?;
    Ok(())
}

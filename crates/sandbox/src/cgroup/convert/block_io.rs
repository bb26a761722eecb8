//! `linux.resources.blockIO`: weights and throttles.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Converter, invalid};
use crate::cgroup::version::Version;
use crate::error::Result;

/// `io.weight` (1 to 10000) for a blkio weight (10 to 1000), linearly.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

impl Converter<'_> {
    /// One weight: v1's file or BFQ's of v1, BFQ's of v2 or v2's own with a converted value.
    /// `device` is `MAJOR:MINOR ` or nothing.
    fn weight(&mut self, field: &str, device: &str, weight: Option<u16>) -> Result<()> {
        let Some(weight) = weight.filter(|w| *w != 0) else { return Ok(()) };
        if !(10..=1000).contains(&weight) {
            return invalid(field, format!("{weight}: expected 10 to 1000"));
        }
        let value = format!("{device}{weight}");
        let suffix = if device.is_empty() { "" } else { "_device" };
        match self.find(field, "blkio", "io")? {
            v @ Version::V1 => {
                let instead = Some((format!("blkio.bfq.weight{suffix}"), value.clone()));
                self.push(field, v, "blkio", format!("blkio.weight{suffix}"), value).instead = instead;
            }
            v @ Version::V2 => {
                let converted = format!("{device}{}", io_weight(weight));
                self.push(field, v, "io", "io.bfq.weight", value).instead =
                    Some(("io.weight".into(), converted));
            }
        }
        Ok(())
    }

    fn leaf_weight(&mut self, field: &str, device: &str, weight: Option<u16>) -> Result<()> {
        let Some(weight) = weight.filter(|w| *w != 0) else { return Ok(()) };
        if !(10..=1000).contains(&weight) {
            return invalid(field, format!("{weight}: expected 10 to 1000"));
        }
        self.find_v1(field, "blkio")?;
        let file = if device.is_empty() { "blkio.leaf_weight" } else { "blkio.leaf_weight_device" };
        self.push(field, Version::V1, "blkio", file, format!("{device}{weight}"));
        Ok(())
    }

    pub(super) fn block_io(&mut self, io: &LinuxBlockIo) -> Result<()> {
        self.weight("blockIO.weight", "", io.weight())?;
        self.leaf_weight("blockIO.leafWeight", "", io.leaf_weight())?;
        for (i, d) in io.weight_device().iter().flatten().enumerate() {
            let field = format!("blockIO.weightDevice[{i}]");
            let device = format!("{} ", device_number(&field, d.major(), d.minor())?);
            self.weight(&format!("{field}.weight"), &device, d.weight())?;
            self.leaf_weight(&format!("{field}.leafWeight"), &device, d.leaf_weight())?;
        }
        self.throttle("throttleReadBpsDevice", "read_bps", "rbps", io.throttle_read_bps_device())?;
        self.throttle("throttleWriteBpsDevice", "write_bps", "wbps", io.throttle_write_bps_device())?;
        self.throttle("throttleReadIOPSDevice", "read_iops", "riops", io.throttle_read_iops_device())?;
        self.throttle("throttleWriteIOPSDevice", "write_iops", "wiops", io.throttle_write_iops_device())
    }

    fn throttle(
        &mut self,
        field: &str,
        v1: &str,
        v2: &str,
        devices: &Option<Vec<LinuxThrottleDevice>>,
    ) -> Result<()> {
        for (i, d) in devices.iter().flatten().enumerate() {
            let field = format!("blockIO.{field}[{i}]");
            let device = device_number(&field, d.major(), d.minor())?;
            match self.find(&field, "blkio", "io")? {
                v @ Version::V1 => {
                    let file = format!("blkio.throttle.{v1}_device");
                    self.push(&field, v, "blkio", file, format!("{device} {}", d.rate()));
                }
                v @ Version::V2 => {
                    // 0 lifts the limit on v1 and is refused on v2.
                    let rate = if d.rate() == 0 { "max".into() } else { d.rate().to_string() };
                    self.push(&field, v, "io", "io.max", format!("{device} {v2}={rate}"));
                }
            }
        }
        Ok(())
    }
}

fn device_number(field: &str, major: i64, minor: i64) -> Result<String> {
    if major < 0 || minor < 0 {
        return invalid(field, format!("{major}:{minor}: expected the numbers of a block device"));
    }
    Ok(format!("{major}:{minor}"))
}

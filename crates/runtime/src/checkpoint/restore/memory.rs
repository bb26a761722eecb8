//! Memory of a restored container that CRIU does not read.

use hiber_criu::{ImageDirectory, LazyRestore};
use hiber_sandbox::plan::NamespaceKind;

use super::RestoreContainerOptions;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::memory::LARGE;
use crate::checkpoint::restore_options::{check_following_memory, check_strict, unprivileged_userfaultfd};
use crate::checkpoint::{CriuOptions, config_file};
use crate::container::prepared::Prepared;
use crate::error::Result;
use crate::helpers::lazy::arrival::MAX_CHAIN;

/// Memory that a daemon of ours brings. CRIU reads what cannot be brought so.
pub(super) struct Brought {
    pub(super) when: When,
    /// The memory, and the images that leave it out.
    pub(super) lazy: LazyRestore,
}

/// When it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// The container stands still until all is there: our daemon has more than one thread and copies large pieces.
    BeforeItRuns,
    /// When it is touched, and meanwhile all the rest.
    WhileItRuns,
}

/// The options where the caller's and those of the dump meet, and the memory that CRIU does not read. `soon` says that the container is
/// to run as soon as it can, so that much memory follows without being asked.
pub(super) fn settle(
    options: &RestoreContainerOptions<'_>,
    manifest: Option<&Manifest>,
    prepared: &Prepared,
    chain: &[ImageDirectory],
    soon: bool,
) -> Result<(CriuOptions, Option<Brought>)> {
    let mut criu_options = options.criu.clone();
    if let Some(manifest) = manifest {
        criu_options.follow(&manifest.options.criu);
    }
    criu_options.lazy_pages |= options.background;
    check_following_memory(options, &prepared.plan.namespaces)?;
    check_strict(prepared, &criu_options)?;
    let brought = Brought::of(options, &criu_options, prepared, chain, soon)?;
    if let (Some(stored), [images, ..]) = (&options.stored, chain) {
        stored.fill(images, brought.as_ref().map(|brought| &brought.lazy))?;
    }
    criu_options.lazy_pages |= brought.is_some();
    Ok((criu_options, brought))
}

impl Brought {
    /// `criu` has been completed by the manifest.
    fn of(
        options: &RestoreContainerOptions<'_>,
        criu: &CriuOptions,
        prepared: &Prepared,
        chain: &[ImageDirectory],
        soon: bool,
    ) -> Result<Option<Self>> {
        let asked = options.brings_memory();
        let when = if asked || soon { When::WhileItRuns } else { When::BeforeItRuns };
        // Huge pages are worth a wait, but not of clients.
        if !asked && (!pays(criu, prepared, chain) || !soon && gives_huge_pages()) {
            return Ok(None);
        }
        let lazy = LazyRestore::of(chain)?;
        if !asked && (lazy.left_behind() > 0 || !is_of_one(&lazy)) {
            return Ok(None);
        }
        Ok(Some(Self { when, lazy }))
    }
}

/// Whether our daemon may bring memory, and there is much.
fn pays(criu: &CriuOptions, prepared: &Prepared, chain: &[ImageDirectory]) -> bool {
    // A configuration file may say more of lazy pages than we know.
    let plain = !criu.lazy_pages && !criu.auto_dedup && config_file(&prepared.spec).is_none();
    let of_user = prepared.plan.namespaces.has(NamespaceKind::User) && !unprivileged_userfaultfd();
    plain && !of_user && chain.len() <= MAX_CHAIN && is_large(chain) && hiber_sys::userfault::serves_others()
}

/// Whether there are so many pages at all. A parent is not looked at.
pub(crate) fn is_large(chain: &[ImageDirectory]) -> bool {
    let [images] = chain else { return !chain.is_empty() };
    let sizes = (1..).map_while(|number| images.stat_of(&format!("pages-{number}.img")).ok());
    let mut total = 0;
    sizes.map(|stat| u64::try_from(stat.st_size).unwrap_or(0)).any(|size| {
        total += size;
        total >= LARGE
    })
}

/// Whether one task has much memory, and all others have little. Tasks may share memory since a fork (copy-on-write), which CRIU
/// keeps and our daemon does not.
fn is_of_one(lazy: &LazyRestore) -> bool {
    let largest = lazy.bytes_of_tasks().max().unwrap_or(0);
    let all: u64 = lazy.bytes_of_tasks().sum();
    largest >= LARGE && all - largest < LARGE
}

/// Whether the kernel gives huge pages to all memory: CRIU's reads get some, and our daemon brings small ones.
fn gives_huge_pages() -> bool {
    let enabled = hiber_sys::file::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    enabled.is_ok_and(|words| words.contains("[always]"))
}

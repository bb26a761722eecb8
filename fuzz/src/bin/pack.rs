//! pack DIR: writes the files of a checkpoint to standard output, as one input of the targets `images` and `trust`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: pack DIR"))?;
    let mut files: Vec<_> = std::fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files.iter().filter(|file| file.path().is_file()) {
        let packed = hiber_fuzz::packed(&file.file_name().to_string_lossy(), &std::fs::read(file.path())?);
        std::io::stdout().write_all(&packed)?;
    }
    Ok(())
}

//! Small files with a check: written beside, made durable, and then given their name at once.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use apus_engine::shipping::crc32c_of;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the body: magic, length, check of length and body.
const FRONT: usize = 8 + 8 + 4;

/// The value as bytes with their check.
pub(super) fn seal(magic: [u8; 8], value: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
    Ok(seal_bytes(magic, &body))
}

/// Bytes with their check.
pub(super) fn seal_bytes(magic: [u8; 8], body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    let check = crc32c_of(&[&magic, &length, body]).to_le_bytes();
    [&magic[..], &length, &check, body].concat()
}

/// The bytes within, if the check is right.
pub(super) fn unseal_bytes(magic: [u8; 8], bytes: &[u8]) -> Option<&[u8]> {
    let length: &[u8; 8] = bytes.get(8..16)?.first_chunk()?;
    let check: &[u8; 4] = bytes.get(16..FRONT)?.first_chunk()?;
    let end = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_add(FRONT)?;
    let body = bytes.get(FRONT..end)?;
    let right = bytes[..8] == magic && crc32c_of(&[&magic, length, body]) == u32::from_le_bytes(*check);
    right.then_some(body)
}

/// The value within, if the check is right.
pub(super) fn unseal<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(unseal_bytes(magic, bytes)?).ok()
}

/// Writes a file beside its place, and then gives it its place, all of it durably.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&new, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// All of a file; `None`: there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map(|_| Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

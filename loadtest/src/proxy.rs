//! stub
use crate::options::ProxyCommand;
use crate::run::{Failure, StopFlag};
pub fn proxy(_command: &ProxyCommand, _stop: &StopFlag) -> Result<bool, Failure> {
    Ok(true)
}

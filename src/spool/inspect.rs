//! Looking into a spool with the relay stopped: `ringpost spool list|verify DIR`.

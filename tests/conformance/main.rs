//! What the relay expects of a host, asked of the kernel, and with the feature `simulate` of the simulated host: where the
//! two differ a simulation proves nothing.

mod files;
mod name_servers;
mod sockets;

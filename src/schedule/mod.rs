pub mod dsn;
pub mod ending;
pub mod judge;
pub mod next_hop;
pub mod outcome;
pub mod retry;
pub mod settle;
pub mod tries;

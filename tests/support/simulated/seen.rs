//! How often each thing happened: a simulation that avoids a path proves nothing about it.

/// The struct `Seen` with these counts.
macro_rules! counted {
    ($($name:ident)*) => {
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        pub struct Seen {
            $(pub $name: u64,)*
        }

        impl Seen {
            pub fn add(&mut self, other: &Seen) {
                $(self.$name += other.$name;)*
            }

            /// Everything that happened less often than this.
            pub fn rarer_than(&self, least: u64) -> Vec<(&'static str, u64)> {
                let all = [$((stringify!($name), self.$name)),*];
                all.into_iter().filter(|(_, count)| *count < least).collect()
            }
        }
    };
}

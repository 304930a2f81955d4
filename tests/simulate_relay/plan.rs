//! How much of a world there is: what a seed draws, and no more than its plan allows. A failing seed is played again with a
//! smaller plan as long as it breaks the same promise.

use crate::simulated::shrink::Choices;
use std::fmt;

/// The choices: a name, how much a seed may draw of it, and its least. The most expensive ones come first.
macro_rules! choices {
    ($($(#[$about:meta])* $name:ident: $word:literal $usual:literal..$least:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Choice {
            $($(#[$about])* $name,)*
        }

        const CHOICES: &[(&str, usize, usize)] = &[$(($word, $usual, $least),)*];
    };
}

choices! {
    /// A small spool with more mail than it holds.
    Hog: "hog" 1..0,
    /// A disk that dies or is full in quiet times.
    BadDisk: "bad-disk" 1..0,
    /// Hosts that are not well in quiet times.
    Neighbours: "neighbours" 1..0,
    /// Letters in quiet times.
    Probes: "probes" 5..0,
    /// Runs before all is well.
    Runs: "runs" 3..0,
    /// Sessions of clients in all runs.
    Clients: "clients" 1024..0,
    Spells: "spells" 1..0,
    Restarts: "restarts" 1..0,
    Reloads: "reloads" 1..0,
    /// Cores that stand still.
    Holds: "holds" 1..0,
    /// Other ends of a run than a kill.
    Ends: "ends" 1..0,
    Cores: "cores" 4..1,
    /// Next hops that are not good.
    Manners: "manners" 1..0,
    /// Of one site.
    Hosts: "hosts" 2..1,
    DiskFaults: "disk-faults" 1..0,
    /// What a file system cannot do.
    Lacks: "lacks" 1..0,
    /// A network that delays and breaks.
    Links: "links" 1..0,
    /// Other orders than first come, first served.
    Orders: "orders" 1..0,
    Tls: "tls" 1..0,
    /// Of one session.
    Letters: "letters" 4..1,
    /// Of one letter.
    Recipients: "recipients" 6..1,
    /// Of one content.
    Lines: "lines" 1200..0,
    Smtputf8: "smtputf8" 1..0,
    /// Clients that leave.
    Restless: "restless" 1..0,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    most: Vec<usize>,
    /// The same choices with another course of things.
    course: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            most: CHOICES.iter().map(|choice| choice.1).collect(),
            course: 0,
        }
    }
}

impl Plan {
    /// What `Display` says of one.
    ///
    /// # Panics
    /// If it is nothing of that kind.
    pub fn parse(text: &str) -> Plan {
        let mut plan = Plan::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, number) = part.split_once('=').expect("name=number");
            let number = number.parse().expect("a number");
            match CHOICES.iter().position(|choice| choice.0 == name) {
                Some(at) => plan.most[at] = number,
                None if name == "course" => plan.course = number as u64,
                None => panic!("there is no choice {name}"),
            }
        }
        plan
    }

    /// No more than that.
    pub fn most(&self, choice: Choice) -> usize {
        self.most[choice as usize]
    }

    pub fn allows(&self, choice: Choice) -> bool {
        self.most(choice) > 0
    }

    /// What chance begins with.
    pub fn stream(&self, seed: u64) -> u64 {
        seed + (self.course << 32)
    }
}

impl Choices for Plan {
    fn count(&self) -> usize {
        CHOICES.len()
    }

    fn value(&self, choice: usize) -> usize {
        self.most[choice]
    }

    fn least(&self, choice: usize) -> usize {
        CHOICES[choice].2
    }

    fn with(&self, choice: usize, value: usize, course: u64) -> Self {
        let mut other = self.clone();
        other.most[choice] = value;
        other.course += course;
        other
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = CHOICES.iter().zip(&self.most);
        let changed = most.filter(|(choice, most)| choice.1 != **most);
        let mut parts: Vec<String> = changed
            .map(|(it, most)| format!("{}={most}", it.0))
            .collect();
        if self.course > 0 {
            parts.push(format!("course={}", self.course));
        }
        f.write_str(&parts.join(","))
    }
}

//! Name servers, asked through the library. Each has a resolver for itself, and one without EDNS: the library's own
//! choice among servers, where the first error of any would be the answer, is not used.

use super::clock;
use crate::io::dns::{Code, Denial, Kind, Question, Record, Reply, Settings};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A name server.
pub struct Server {
    with_edns: TokioResolver,
    without: TokioResolver,
}

/// Those of /etc/resolv.conf, each once, in that order; none without that file.
pub fn configured() -> Vec<SocketAddr> {
    let address_of = |server: &NameServerConfig| {
        let connection = server.connections.first()?;
        Some(SocketAddr::new(server.ip, connection.port))
    };
    let configured = read_system_conf().map(|(config, _)| config.name_servers);
    let mut addresses = Vec::new();
    for address in configured.iter().flatten().filter_map(address_of) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// To be called within the runtime of the core that asks. An error says what is wrong with the system's settings.
pub fn servers(addresses: &[SocketAddr], settings: &Settings) -> Result<Vec<Server>, String> {
    // All share one copy.
    let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
    let server = |address: &SocketAddr| {
        Ok(Server {
            with_edns: resolver(*address, settings, true, &hosts)?,
            without: resolver(*address, settings, false, &hosts)?,
        })
    };
    addresses.iter().map(server).collect()
}

impl Server {
    /// Asks, with EDNS or without. Dropped, the question is given up.
    pub async fn ask(&self, question: &Question, edns: bool) -> Reply {
        let resolver = match edns {
            true => &self.with_edns,
            false => &self.without,
        };
        let wanted = record_type(question.kind);
        match resolver.lookup(question.name.clone(), wanted).await {
            Ok(lookup) => records(&lookup, question),
            Err(error) => reply_of_error(&error, question),
        }
    }
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Mx => RecordType::MX,
    }
}

fn records(lookup: &Lookup, question: &Question) -> Reply {
    let wanted = record_type(question.kind);
    let answers = lookup.answers().iter();
    let answers = answers.filter(|record| record.record_type() == wanted);
    Reply::Records {
        records: answers
            .filter_map(|record| Record::of(&record.data))
            .collect(),
        ttl: clock::until(lookup.valid_until()),
    }
}

fn reply_of_error(error: &NetError, question: &Question) -> Reply {
    match error {
        NetError::Timeout => Reply::Silence,
        NetError::Dns(DnsError::NoRecordsFound(denial)) => denied(denial, question),
        NetError::Dns(DnsError::ResponseCode(code)) => Reply::Code(Code(u16::from(*code))),
        error => Reply::Failed(error.to_string().into()),
    }
}

fn denied(denial: &NoRecords, question: &Question) -> Reply {
    let name_exists = match denial.response_code {
        // Who is no resolver, or not for this name, points elsewhere.
        _ if denial.soa.is_none() && denial.ns.is_some() => return Reply::Referral,
        ResponseCode::NXDomain => false,
        ResponseCode::NoError => true,
        code => return Reply::Code(Code(u16::from(code))),
    };
    Reply::Denied(Denial {
        name_exists,
        ttl: denial
            .negative_ttl
            .map(|seconds| Duration::from_secs(seconds.into())),
        is_proven: denial.soa.is_some(),
        is_of_alias: *denial.query.name() != question.name,
    })
}

fn resolver(
    address: SocketAddr,
    settings: &Settings,
    edns: bool,
    hosts: &Arc<Hosts>,
) -> Result<TokioResolver, String> {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![
        at_port(ConnectionConfig::udp()),
        at_port(ConnectionConfig::tcp()),
    ];
    let server = NameServerConfig::new(address.ip(), true, connections);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options(settings, edns);
    let mut resolver = builder.build().map_err(|error| error.to_string())?;
    resolver.set_hosts(hosts.clone());
    Ok(resolver)
}

fn options(settings: &Settings, edns: bool) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = settings.query_timeout;
    // Whether, whom and when to ask again is decided by who asks.
    options.attempts = 0;
    options.num_concurrent_reqs = 1;
    options.edns0 = edns;
    // All share one copy.
    options.use_hosts_file = ResolveHosts::Never;
    // Who asks remembers what it needs, in a tenth of the memory.
    options.cache_size = 0;
    options.max_active_requests = settings.queries_max;
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::dns::SOCKETS_PER_QUERY;
    use std::collections::HashSet;
    use std::net::UdpSocket;

    /// What is reckoned with is what the library does.
    #[test]
    fn a_query_that_nobody_answers_is_sent_from_so_many_sockets() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addresses = [nobody.local_addr().unwrap()];
        let settings = Settings {
            query_timeout: Duration::from_secs(2),
            queries_max: 1,
        };
        let question = Question::new("a.test", Kind::Mx).unwrap();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let reply = runtime.block_on(async {
            let servers = servers(&addresses, &settings).unwrap();
            servers[0].ask(&question, true).await
        });
        assert_eq!(reply, Reply::Silence);
        nobody.set_nonblocking(true).unwrap();
        let mut senders = HashSet::new();
        while let Ok((_, sender)) = nobody.recv_from(&mut [0; 512]) {
            senders.insert(sender);
        }
        assert_eq!(senders.len(), SOCKETS_PER_QUERY);
    }
}

/**
 * The nftables rules of one captured pod, as text for `nft -f`: one transaction, the same text whether the rules
 * stand already or not. What each rule relies on was tried on Linux 6.18, IPv4 and IPv6:
 *
 * - only the first packet of a connection is matched (`== syn`), so connections that were open before are
 *   neither redirected midway nor reset;
 * - flushing chains keeps live captured connections, deleting the table resets them, so rules are replaced by
 *   flush and add, and un-enrolling flushes the two nat chains;
 * - a connection that we make with a client's address takes any free port, and the same client may itself have one
 *   from that port to the same place. In one conntrack zone the two are one entry: the older is never answered
 *   again, or the newer. So ours are tracked in a zone of their own in the original direction, and their answers
 *   in the common one, where NAT sees the clash and maps the port;
 * - an entry whose far side sent RST stays for 10 s, and a SYN from the same port is taken for a part of it: it would
 *   see no NAT and leave in plain text. The application may well get the port that we had (8 of 840 did, seen, after
 *   its passthrough connections were reset), so all of ours are in that zone, not only those inside the pod;
 * - a packet whose mark changes in a `route` chain is routed anew, 5 % of two cores at 21,000 requests a second (perf):
 *   so only the application's answers take the connection's mark, which they need to come back to us; ours do not;
 * - nobody listening on 15001 and 15006 means RST in both directions: the rules alone let nothing through.
 */

import {
  CONNECTION_MARK,
  MARK_MASK,
  PACKET_MARK,
  PORTS,
  PROBE_SOURCE_IPV4,
  PROBE_SOURCE_IPV6,
} from '../core/pod.ts';

export const RULE_TABLE = 'inet nodemesh';
/** Routing table and rule that bring answers to transparent connections back to us. */
export const ROUTE_TABLE = 100;
export const ROUTE_PREFERENCE = 32764;
/** Probe ports of one pod; more are refused by the controller's checks, and cut here. */
export const PROBE_PORTS_MAX = 64;

const hex = (value: number): string => `0x${value.toString(16)}`;
const MASK = hex(MARK_MASK);
const OWN = hex(PACKET_MARK);
/** Connections that we make inside the pod; connection tracking's own default is 0. */
const OWN_ZONE = 1;
const KEPT = hex(CONNECTION_MARK);
/** The complement of the mask in 32 bits. */
const OTHER_BITS = hex(~MARK_MASK >>> 0);
const FIRST_PACKET = 'tcp flags & (fin | syn | rst | ack) == syn';

const CHAINS = `table ${RULE_TABLE} {
  chain zone_prerouting {
    type filter hook prerouting priority raw; policy accept;
  }
  chain zone_output {
    type filter hook output priority raw; policy accept;
  }
  chain mangle_prerouting {
    type filter hook prerouting priority mangle; policy accept;
  }
  chain mangle_output {
    type route hook output priority mangle; policy accept;
  }
  chain inbound {
    type nat hook prerouting priority dstnat; policy accept;
  }
  chain outbound {
    type nat hook output priority -100; policy accept;
  }
}
`;

/**
 * The rules of a captured pod. `probePorts` are the only ports open in plain text to the reserved probe source,
 * which nothing but the node's own namespace can send from (see `probes.ts`).
 */
export function formatPodRules(probePorts: readonly number[]): string {
  return `${CHAINS}flush table ${RULE_TABLE}
table ${RULE_TABLE} {
  chain zone_prerouting {
    iif lo meta mark & ${MASK} == ${OWN} ct original zone set ${OWN_ZONE}
  }
  chain zone_output {
    meta mark & ${MASK} == ${OWN} ct original zone set ${OWN_ZONE}
  }
  chain mangle_prerouting {
    meta mark & ${MASK} == ${OWN} ct mark set ct mark & ${OTHER_BITS} | ${KEPT}
  }
  chain mangle_output {
    meta mark & ${MASK} != ${OWN} ct mark & ${MASK} == ${KEPT} meta mark set ct mark
  }
  chain inbound {
    meta mark & ${MASK} == ${OWN} accept
    fib daddr type != local accept
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    tcp dport ${PORTS.hbone} accept
${formatProbeRules(probePorts)}    ${FIRST_PACKET} redirect to :${PORTS.inboundPassthrough}
  }
  chain outbound {
    meta mark & ${MASK} == { ${OWN}, ${KEPT} } accept
    ip daddr 127.0.0.0/8 accept
    ip6 daddr ::1 accept
    ${FIRST_PACKET} redirect to :${PORTS.outbound}
  }
}
`;
}

/** Never our own ports: a probe must not reach the proxy's listeners as if it were a captured connection. */
function formatProbeRules(probePorts: readonly number[]): string {
  const own: readonly number[] = Object.values(PORTS);
  const ports = [...new Set(probePorts)]
    .filter((port) => Number.isInteger(port) && port > 0 && port < 65536 && !own.includes(port))
    .toSorted((a, b) => a - b)
    .slice(0, PROBE_PORTS_MAX);
  if (ports.length === 0) return '';
  const set = `{ ${ports.join(', ')} }`;
  return `    ip saddr ${PROBE_SOURCE_IPV4} tcp dport ${set} accept
    ip6 saddr ${PROBE_SOURCE_IPV6} tcp dport ${set} accept
`;
}

/** Puts the rules in place of whatever stands under our name: for a table that somebody has tampered with. */
export function formatPodRulesReplacing(probePorts: readonly number[]): string {
  return `${formatPodRulesRemoval()}${formatPodRules(probePorts)}`;
}

/** Ends redirection of new connections; those captured before go on. */
export function formatPodRulesDetached(): string {
  return `${CHAINS}flush chain ${RULE_TABLE} inbound
flush chain ${RULE_TABLE} outbound
`;
}

/** Removes everything; resets captured connections that still live. Does not fail when nothing is there. */
export function formatPodRulesRemoval(): string {
  return `table ${RULE_TABLE} {
}
delete table ${RULE_TABLE}
`;
}

/** Lines for `ip -batch`: the rule and route of answers. `route replace` may repeat, `rule add` may not. */
export function formatRouteCommands(family: 'ipv4' | 'ipv6', hasRule: boolean): string {
  const everything = family === 'ipv4' ? '0.0.0.0/0' : '::/0';
  const rule = `rule add fwmark ${KEPT}/${MASK} pref ${ROUTE_PREFERENCE} lookup ${ROUTE_TABLE}\n`;
  const route = `route replace local ${everything} dev lo table ${ROUTE_TABLE}\n`;
  return `${hasRule ? '' : rule}${route}`;
}

/** Lines for `ip -force -batch` that take them away again. */
export function formatRouteRemoval(): string {
  return `rule del pref ${ROUTE_PREFERENCE}\nroute flush table ${ROUTE_TABLE}\n`;
}

/** Lines for `ip -batch` that print what stands. */
export function formatRouteQuery(): string {
  return `rule show pref ${ROUTE_PREFERENCE}\nroute show table ${ROUTE_TABLE}\n`;
}

/** Whether the answer to the query shows our rule, and whether it shows our route. */
export function parseRouteState(text: string): { hasRule: boolean; hasRoute: boolean } {
  const lines = text.split('\n');
  const wanted = `fwmark ${KEPT}/${MASK} lookup ${ROUTE_TABLE}`;
  return {
    hasRule: lines.some((line) => line.includes(wanted)),
    hasRoute: lines.some((line) => line.startsWith('local default dev lo')),
  };
}

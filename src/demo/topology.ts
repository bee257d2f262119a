/**
 * A small cluster network on one machine: a hub with a bridge, nodes behind it, pods behind the nodes, each in
 * a network namespace of its own. Nothing outside these namespaces is touched, and all of them go with
 * `remove()`; what a crashed run left is removed by the next one that uses the same prefix.
 *
 * It plays the parts of a cluster that are not the mesh: the bridge CNI (addresses, routes) and kube-proxy
 * (service addresses, in the node's namespace, where a captured connection never passes).
 *
 * Addresses: the hub is 172.31.0.1; node N is 172.31.0.1N and fd31::1N; its pods are 10.42.N.0/24 and fd42:N::/64.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import type { IpAddress } from '../core/address.ts';

export interface TopologyNode {
  readonly name: string;
  readonly index: number;
  /** Path of its network namespace. */
  readonly netns: string;
  readonly ip: IpAddress;
  readonly ip6: IpAddress;
}

export interface TopologyPod {
  readonly name: string;
  readonly node: TopologyNode;
  readonly netns: string;
  readonly ip: IpAddress;
  readonly ip6: IpAddress;
  /** Its end in the node's namespace, where a capture sees what enters and leaves the pod. */
  readonly hostInterface: string;
}

/** A service address and what kube-proxy would make of it. */
export interface ServiceRule {
  readonly vip: IpAddress;
  readonly port: number;
  readonly endpoints: readonly { readonly ip: IpAddress; readonly port: number }[];
}

export interface Topology {
  readonly prefix: string;
  readonly hub: { readonly netns: string; readonly bridge: string };
  readonly nodes: readonly TopologyNode[];
  addPod(name: string, node: TopologyNode, host?: number): TopologyPod;
  removePod(pod: TopologyPod): void;
  /** Replaces the service rules of every node. */
  setServices(rules: readonly ServiceRule[]): void;
  /** Removes everything, and with it whatever still runs only on these networks. Idempotent. */
  remove(): void;
}

/** The hub's own address: where the controller listens. */
export const HUB_IP: IpAddress = '172.31.0.1' as IpAddress;

const COMMAND_TIMEOUT_MS = 15_000;
const NETNS_DIR = '/run/netns';

function run(command: string, args: readonly string[], input?: string): string {
  const done = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: COMMAND_TIMEOUT_MS,
    ...(input === undefined ? {} : { input }),
  });
  if (done.status !== 0) {
    const reason = done.error?.message ?? done.stderr.trim();
    const message = `Cannot run "${command} ${args.join(' ')}": ${reason}`;
    throw new MeshError('MESH_COMMAND_FAILED', message);
  }
  return done.stdout;
}

/** Runs many `ip` commands in one process, inside a namespace. */
function ipBatch(netns: string | undefined, lines: readonly string[]): void {
  const where = netns === undefined ? [] : ['-n', netns];
  run('ip', [...where, '-batch', '-'], `${lines.join('\n')}\n`);
}

function inNamespace(
  netns: string,
  command: string,
  args: readonly string[],
  input?: string,
): void {
  run('ip', ['netns', 'exec', netns, command, ...args], input);
}

/** Deletes the namespaces whose names start with `prefix-`. */
export function removeNamespaces(prefix: string): void {
  if (!existsSync(NETNS_DIR)) return;
  const names = readdirSync(NETNS_DIR).filter((name) => name.startsWith(`${prefix}-`));
  if (names.length > 0)
    ipBatch(
      undefined,
      names.map((name) => `netns delete ${name}`),
    );
}

const FORWARDING = [
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv6.conf.all.accept_dad=0',
  'net.ipv6.conf.default.accept_dad=0',
];
const QUIET_IPV6 = ['net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0'];

/** Namespace and interface names are short: Linux allows 15 characters for an interface. */
export function createTopology(prefix: string, nodeNames: readonly string[]): Topology {
  removeNamespaces(prefix);
  const hub = `${prefix}-hub`;
  const bridge = 'mesh0';
  const nodes: TopologyNode[] = [];
  const pods = new Map<string, TopologyPod>();
  const nextHost = new Map<string, number>();

  ipBatch(undefined, [`netns add ${hub}`]);
  inNamespace(hub, 'sysctl', ['-qw', ...QUIET_IPV6]);
  ipBatch(hub, [
    `link add ${bridge} type bridge`,
    `link set ${bridge} up`,
    'link set lo up',
    `addr add ${HUB_IP}/24 dev ${bridge}`,
    `addr add fd31::1/64 dev ${bridge} nodad`,
  ]);

  for (const [offset, name] of nodeNames.entries()) {
    const index = offset + 1;
    const netns = `${prefix}-${name}`;
    ipBatch(undefined, [`netns add ${netns}`]);
    inNamespace(netns, 'sysctl', ['-qw', ...FORWARDING]);
    ipBatch(hub, [
      `link add n${index} type veth peer name eth0 netns ${netns}`,
      `link set n${index} master ${bridge} up`,
    ]);
    ipBatch(netns, [
      'link set lo up',
      'link set eth0 up',
      `addr add 172.31.0.1${index}/24 dev eth0`,
      `addr add fd31::1${index}/64 dev eth0 nodad`,
      'link add cni0 type bridge',
      `addr add 10.42.${index}.1/24 dev cni0`,
      `addr add fd42:${index}::1/64 dev cni0 nodad`,
      'link set cni0 up',
    ]);
    nodes.push({
      name,
      index,
      netns: `${NETNS_DIR}/${netns}`,
      ip: `172.31.0.1${index}` as IpAddress,
      ip6: `fd31::1${index}` as IpAddress,
    });
  }
  ipBatch(
    hub,
    nodes.flatMap(({ index, ip, ip6 }) => [
      `route add 10.42.${index}.0/24 via ${ip}`,
      `route add fd42:${index}::/64 via ${ip6}`,
    ]),
  );
  for (const node of nodes) {
    const others = nodes.filter((other) => other !== node);
    ipBatch(
      `${prefix}-${node.name}`,
      others.flatMap((other) => [
        `route add 10.42.${other.index}.0/24 via ${other.ip}`,
        `route add fd42:${other.index}::/64 via ${other.ip6}`,
      ]),
    );
  }

  return {
    prefix,
    hub: { netns: `${NETNS_DIR}/${hub}`, bridge },
    nodes,
    addPod(name, node, host) {
      const number = host ?? nextHost.get(node.name) ?? 10;
      nextHost.set(node.name, Math.max(number + 1, nextHost.get(node.name) ?? 10));
      const netns = `${prefix}-p-${name}`;
      const hostInterface = `v${node.index}x${number}`;
      const pod: TopologyPod = {
        name,
        node,
        netns: `${NETNS_DIR}/${netns}`,
        ip: `10.42.${node.index}.${number}` as IpAddress,
        ip6: `fd42:${node.index}::${number.toString(16)}` as IpAddress,
        hostInterface,
      };
      ipBatch(undefined, [`netns add ${netns}`]);
      inNamespace(netns, 'sysctl', ['-qw', ...QUIET_IPV6]);
      ipBatch(`${prefix}-${node.name}`, [
        `link add ${hostInterface} type veth peer name eth0 netns ${netns}`,
        `link set ${hostInterface} master cni0 up`,
      ]);
      ipBatch(netns, [
        'link set lo up',
        'link set eth0 up',
        `addr add ${pod.ip}/24 dev eth0`,
        `addr add ${pod.ip6}/64 dev eth0 nodad`,
        `route add default via 10.42.${node.index}.1`,
        `route add default via fd42:${node.index}::1`,
      ]);
      pods.set(name, pod);
      return pod;
    },
    removePod(pod) {
      pods.delete(pod.name);
      ipBatch(undefined, [`netns delete ${prefix}-p-${pod.name}`]);
    },
    setServices(rules) {
      const text = formatServiceRules(rules);
      for (const node of nodes) inNamespace(`${prefix}-${node.name}`, 'nft', ['-f', '-'], text);
    },
    remove: () => removeNamespaces(prefix),
  };
}

/** kube-proxy in a few lines: each service address goes to one of its endpoints at random. */
function formatServiceRules(rules: readonly ServiceRule[]): string {
  const lines = rules
    .filter((rule) => rule.endpoints.length > 0)
    .map(({ vip, port, endpoints }) => {
      const family = vip.includes(':') ? 'ip6' : 'ip';
      const addresses = endpoints.map(({ ip }, index) => `${index} : ${ip}`).join(', ');
      const to = endpoints[0]?.port ?? port;
      const pick = `numgen random mod ${endpoints.length} map { ${addresses} }`;
      return `${family} daddr ${vip} tcp dport ${port} dnat ${family} to ${pick} : ${to}`;
    });
  return [
    'table inet services',
    'delete table inet services',
    'table inet services {',
    '  chain prerouting { type nat hook prerouting priority dstnat; policy accept;',
    ...lines.map((line) => `    ${line}`),
    '  }',
    '  chain output { type nat hook output priority -100; policy accept;',
    ...lines.map((line) => `    ${line}`),
    '  }',
    '}',
    '',
  ].join('\n');
}

/**
 * Network namespaces for tests: made with `ip netns`, named after the test's process, removed with
 * everything in them even after a failure. Needs root and ip; `reasonToSkip` says what is missing.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';

const NAME_PREFIX = 'nmt';

/** A reason to skip tests that make namespaces, or `false`: the `skip` option of a tap test. */
export function reasonToSkip(...tools: readonly string[]): string | false {
  if (process.platform !== 'linux') return 'needs Linux';
  if (process.getuid?.() !== 0) return 'needs root to make network namespaces';
  for (const tool of ['ip', ...tools]) {
    const found = ['/usr/sbin', '/sbin', '/usr/bin', '/bin'].some((dir) =>
      existsSync(`${dir}/${tool}`),
    );
    if (!found) return `needs the program "${tool}"`;
  }
  return false;
}

export interface TestNetwork {
  /** Makes a namespace with its loopback up; returns its path. `name`: up to 5 letters. */
  add(name: string): string;
  /** Joins two namespaces with a veth pair, each end with its addresses (`10.0.0.1/24`, `fd00::1/64`). */
  join(a: TestEnd, b: TestEnd): void;
  /** Runs a program in a namespace and returns what it printed; throws with its stderr when it fails. */
  run(name: string, program: string, ...args: readonly string[]): string;
  /** The same with text on stdin. */
  feed(name: string, input: string, program: string, ...args: readonly string[]): string;
  path(name: string): string;
  /** Full name, as `ip netns` lists it. */
  fullName(name: string): string;
  removeAll(): void;
}

export interface TestEnd {
  readonly name: string;
  readonly device: string;
  readonly addresses: readonly string[];
  /** Default routes through these. */
  readonly gateways?: readonly string[];
}

/** Removes namespaces of test processes that are gone, then returns an empty network. */
export function createTestNetwork(): TestNetwork {
  removeLeftovers();
  const names = new Set<string>();
  const fullName = (name: string): string => `${NAME_PREFIX}${process.pid}-${name}`;
  const execute = (
    name: string,
    input: string,
    program: string,
    args: readonly string[],
  ): string => {
    const all = ['netns', 'exec', fullName(name), program, ...args];
    const result = spawnSync('ip', all, { input, encoding: 'utf8' });
    if (result.status === 0) return result.stdout;
    throw new Error(`${name}: ${program} ${args.join(' ')}: ${result.stderr}`);
  };
  const removeAll = (): void => {
    for (const name of names) spawnSync('ip', ['netns', 'del', fullName(name)]);
    names.clear();
    process.off('exit', removeAll);
  };
  process.once('exit', removeAll);
  return {
    fullName,
    path: (name) => `/run/netns/${fullName(name)}`,
    removeAll,
    feed: (name, input, program, ...args) => execute(name, input, program, args),
    run: (name, program, ...args) => execute(name, '', program, args),
    add(name) {
      execFileSync('ip', ['netns', 'add', fullName(name)]);
      names.add(name);
      execute(name, '', 'ip', ['link', 'set', 'lo', 'up']);
      return `/run/netns/${fullName(name)}`;
    },
    join(a, b) {
      const peer = ['peer', 'name', b.device, 'netns', fullName(b.name)];
      execute(a.name, '', 'ip', ['link', 'add', a.device, 'type', 'veth', ...peer]);
      for (const end of [a, b]) {
        // nodad: an IPv6 address is usable at once instead of after a second.
        for (const address of end.addresses) {
          const flags = address.includes(':') ? ['nodad'] : [];
          execute(end.name, '', 'ip', ['addr', 'add', address, 'dev', end.device, ...flags]);
        }
        execute(end.name, '', 'ip', ['link', 'set', end.device, 'up']);
        for (const gateway of end.gateways ?? []) {
          const family = gateway.includes(':') ? '-6' : '-4';
          execute(end.name, '', 'ip', [family, 'route', 'add', 'default', 'via', gateway]);
        }
      }
      // The kernel tells IPv6 of a carrier up to a second late; until then no neighbour is answered.
      for (const end of [a, b]) {
        const isUp = (): boolean =>
          execute(end.name, '', 'ip', ['-o', 'link', 'show', end.device]).includes('state UP');
        while (!isUp()) execute(end.name, '', 'sleep', ['0.02']);
      }
    },
  };
}

function removeLeftovers(): void {
  if (!existsSync('/run/netns')) return;
  for (const name of readdirSync('/run/netns')) {
    const pid = new RegExp(`^${NAME_PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) spawnSync('ip', ['netns', 'del', name]);
  }
}

/** Whether this machine and this process can carry a mesh: asked once at start, answered with everything missing. */

import { readFileSync } from 'node:fs';
import { platform, release } from 'node:os';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { runCommand } from './commands.ts';
import type { Native } from './native.ts';

/** `tcp_migrate_req` and with it takeover without resets came with Linux 5.14. */
export const KERNEL_MIN: readonly [number, number] = [5, 14];

/** Bits of the capabilities a node proxy uses, with what each is for. */
const CAPABILITIES: readonly (readonly [name: string, bit: number, use: string])[] = [
  ['NET_ADMIN', 12, 'rules, routes and marked sockets'],
  ['NET_RAW', 13, 'transparent sources'],
  ['SYS_PTRACE', 19, 'entering the namespaces of other processes'],
  ['SYS_ADMIN', 21, 'entering network namespaces'],
];

/** Reads `6.18.44-fc`; `undefined` when it is no kernel release. */
export function parseKernelRelease(text: string): readonly [number, number] | undefined {
  const found = /^(\d{1,3})\.(\d{1,4})/.exec(text);
  return found === null ? undefined : [Number(found[1]), Number(found[2])];
}

/** Names of capabilities that `status` (`/proc/self/status`) does not show as effective. */
export function missingCapabilities(status: string): string[] {
  const hex = /^CapEff:\s*([0-9a-f]{1,16})$/m.exec(status)?.[1] ?? '0';
  const effective = BigInt(`0x${hex}`);
  return CAPABILITIES.filter(([, bit]) => ((effective >> BigInt(bit)) & 1n) === 0n).map(
    ([name, , use]) => `capability ${name} (${use})`,
  );
}

export function isKernelNewEnough(releaseText: string): boolean {
  const kernel = parseKernelRelease(releaseText);
  if (kernel === undefined) return false;
  const [major, minor] = kernel;
  return major > KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor >= KERNEL_MIN[1]);
}

/**
 * Rejects with `MESH_PLATFORM_UNSUPPORTED` listing all that is missing: kernel, capabilities, `nft` and
 * `ip` that work. Changes nothing.
 */
export async function checkPlatform(native: Native, clock: Clock): Promise<void> {
  const missing: string[] = [];
  if (platform() !== 'linux') missing.push(`Linux (this is ${platform()})`);
  if (!isKernelNewEnough(release())) {
    missing.push(`Linux ${KERNEL_MIN.join('.')} or newer (this is ${release()})`);
  }
  missing.push(...missingCapabilities(readFileSync('/proc/self/status', 'utf8')));
  // Listing needs the kernel's nf_tables as well as the program.
  for (const [program, args] of [
    ['nft', ['list', 'tables']],
    ['ip', ['rule', 'list']],
  ] as const) {
    await runCommand(native, clock, program, args).catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      missing.push(`the program "${program}" (${reason})`);
    });
  }
  if (missing.length === 0) return;
  throw new MeshError(
    'MESH_PLATFORM_UNSUPPORTED',
    `Cannot run a node proxy here, missing: ${missing.join('; ')}`,
    { details: { missing } },
  );
}

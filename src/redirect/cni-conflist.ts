/**
 * The container runtime's network configuration with our plugin chained last. Ours is a file of its own that sorts
 * first: a copy of the one that would be active without us, which is never touched. So another installer that writes
 * its own file anew, at each start of its pod, does not take us out of the chain, and removing ours leaves exactly
 * what was there.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

/** Before what other installers use: `00-multus.conf`, `05-cilium.conflist`, `10-…`. */
export const OWN_CONFLIST = '00-00-nodemesh.conflist';
const OWN_TYPE = /^nodemesh-cni-/;
const NETWORK_FILE = /\.(?:conf|conflist|json)$/;
export const CONFLIST_MAX_BYTES: number = 1024 * 1024;
/** The CNI versions that the script speaks; one that is missing means 0.1.0 and 0.2.0, which nobody uses. */
const VERSIONS: readonly string[] = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'];

/** The file that would be active without ours; undefined when there is none yet. */
export function activeNetworkFile(names: readonly string[]): string | undefined {
  return names.filter((name) => NETWORK_FILE.test(name) && name !== OWN_CONFLIST).toSorted()[0];
}

function invalid(name: string, reason: string, cause?: unknown): Result<never> {
  const message = `Cannot chain behind the network configuration "${name}": ${reason}`;
  return fail(new MeshError('MESH_CONFIG_INVALID', message, { cause }));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * The text of our file: the configuration `text` of file `name`, a list or a single plugin, with `{ type }` added
 * as the last plugin. Everything else stays as it is, in its order.
 */
export function chainedConflist(name: string, text: string, type: string): Result<string> {
  let network: unknown;
  try {
    network = JSON.parse(text);
  } catch (error) {
    return invalid(name, 'it is not JSON', error);
  }
  if (!isRecord(network)) return invalid(name, 'it is not an object');
  const list = 'plugins' in network ? network : listOf(network);
  const { plugins, cniVersion } = list;
  if (!Array.isArray(plugins) || plugins.length === 0 || !plugins.every(isRecord)) {
    return invalid(name, '"plugins" is not a list of plugins');
  }
  if (typeof cniVersion !== 'string' || !VERSIONS.includes(cniVersion)) {
    const versions = VERSIONS.join(', ');
    return invalid(name, `cniVersion ${JSON.stringify(cniVersion)} is none of ${versions}`);
  }
  // Somebody may have copied ours.
  const others = plugins.filter((plugin) => !OWN_TYPE.test(String(plugin['type'])));
  if (others.length === 0) return invalid(name, 'it has no plugin but ours');
  return ok(`${JSON.stringify({ ...list, plugins: [...others, { type }] }, null, 2)}\n`);
}

/** A single plugin as a list of one; version and name belong to the list (CNI specification, section 1). */
function listOf(plugin: Record<string, unknown>): Record<string, unknown> {
  const { cniVersion, name, ...rest } = plugin;
  return { cniVersion, name, plugins: [rest] };
}

/** The type that our file names, such as `nodemesh-cni-0.1.0`; undefined for a file that is not ours or broken. */
export function chainedType(text: string): string | undefined {
  try {
    const network: unknown = JSON.parse(text);
    const plugins: unknown = isRecord(network) ? network['plugins'] : undefined;
    const last: unknown = Array.isArray(plugins) ? plugins.at(-1) : undefined;
    const type = isRecord(last) ? last['type'] : undefined;
    return typeof type === 'string' && OWN_TYPE.test(type) ? type : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A request of the CNI script as text: `KEY=value` lines, one request per file. Strict and bounded (T122): what
 * is not understood is refused with `MESH_CNI_REQUEST_INVALID`, never guessed. Unknown keys are ignored, so
 * that a newer script can talk to an older agent.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { parseAddress, type IpAddress } from '../core/address.ts';
import { isNamespaceName, isServiceAccountName } from '../core/identity.ts';
import type { PodUid } from '../core/pod.ts';

export type CniCommand = 'add' | 'del' | 'check';

export interface CniRequest {
  readonly command: CniCommand;
  /** The sandbox: several may follow each other for one pod. */
  readonly containerId: string;
  /** Path of the pod's network namespace; for `del` empty when it is gone. */
  readonly netnsPath: string;
  readonly podUid: PodUid;
  readonly podName: string;
  readonly podNamespace: string;
  readonly addresses: readonly IpAddress[];
}

export const CNI_REQUEST_MAX_BYTES: number = 64 * 1024;
const LINES_MAX = 64;
const ADDRESSES_MAX = 16;
const PATH_MAX = 1_024;
const KEY = /^[A-Z][A-Z0-9_]{0,63}$/;
const CONTAINER_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const POD_UID = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/;
/** Printable ASCII without quotes, backslash and space: what container runtimes use for such paths. */
const PATH = /^(?:\/[A-Za-z0-9_.:@+-]+)+$/;

export function isPodUid(text: string): text is PodUid {
  return POD_UID.test(text);
}

/** An absolute path without `.` and `..`, such as `/run/netns/NAME` or `/proc/PID/ns/net`. */
export function isNamespacePath(text: string): boolean {
  const parts = text.split('/');
  return (
    text.length <= PATH_MAX && PATH.test(text) && !parts.includes('..') && !parts.includes('.')
  );
}

function invalid(reason: string): Result<never> {
  return fail(new MeshError('MESH_CNI_REQUEST_INVALID', `Cannot read CNI request: ${reason}`));
}

const shown = (text: string): string => JSON.stringify(text.slice(0, 64));

export function parseCniRequest(command: CniCommand, bytes: Buffer): Result<CniRequest> {
  if (bytes.length > CNI_REQUEST_MAX_BYTES) {
    return invalid(`${bytes.length} bytes, ${CNI_REQUEST_MAX_BYTES} at most`);
  }
  const fields = parseLines(bytes.toString('latin1'));
  if (!fields.ok) return fields;
  const field = (name: string): string => fields.value.get(name) ?? '';

  const containerId = field('CNI_CONTAINERID');
  if (!CONTAINER_ID.test(containerId)) return invalid(`CNI_CONTAINERID ${shown(containerId)}`);
  const netnsPath = field('CNI_NETNS');
  // A runtime may call DEL after the namespace is gone, then without it (CNI specification, DEL).
  const isGone = command === 'del' && netnsPath === '';
  if (!isGone && !isNamespacePath(netnsPath)) return invalid(`CNI_NETNS ${shown(netnsPath)}`);
  const podUid = field('K8S_POD_UID');
  if (!isPodUid(podUid)) return invalid(`K8S_POD_UID ${shown(podUid)}`);
  const podName = field('K8S_POD_NAME');
  // Pods and service accounts follow the same rule: an RFC 1123 subdomain.
  if (!isServiceAccountName(podName)) return invalid(`K8S_POD_NAME ${shown(podName)}`);
  const podNamespace = field('K8S_POD_NAMESPACE');
  if (!isNamespaceName(podNamespace)) return invalid(`K8S_POD_NAMESPACE ${shown(podNamespace)}`);
  const addresses = parseAddresses(field('ADDRESSES'));
  if (!addresses.ok) return addresses;
  return ok({
    command,
    containerId,
    netnsPath,
    podUid,
    podName,
    podNamespace,
    addresses: addresses.value,
  });
}

function parseLines(text: string): Result<ReadonlyMap<string, string>> {
  // The whole file or nothing: a request cut short has no end of line.
  if (!text.endsWith('\n')) return invalid('the last line has no end');
  const lines = text.slice(0, -1).split('\n');
  if (lines.length > LINES_MAX) return invalid(`${lines.length} lines, ${LINES_MAX} at most`);
  const fields = new Map<string, string>();
  for (const line of lines) {
    const equals = line.indexOf('=');
    const key = line.slice(0, Math.max(equals, 0));
    if (!KEY.test(key)) return invalid(`${shown(line)} is not of the form KEY=value`);
    if (fields.has(key)) return invalid(`${key} is there twice`);
    fields.set(key, line.slice(equals + 1));
  }
  return ok(fields);
}

/** Comma-separated, each with or without the prefix length that a CNI result has. */
function parseAddresses(text: string): Result<readonly IpAddress[]> {
  const addresses: IpAddress[] = [];
  const parts = text === '' ? [] : text.split(',', ADDRESSES_MAX + 1);
  if (parts.length > ADDRESSES_MAX) return invalid(`more than ${ADDRESSES_MAX} addresses`);
  for (const part of parts) {
    const [, host = '', length = ''] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(part) ?? [];
    const address = parseAddress(host);
    if (!address.ok || Number(length) > 128) return invalid(`ADDRESSES: ${shown(part)}`);
    addresses.push(address.value);
  }
  return ok(addresses);
}

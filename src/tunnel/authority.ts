/**
 * The `:authority` of a CONNECT request: `host:port`, read strictly (T40, T43). An address is read as an
 * address in one form only; anything else must look like a DNS name and is never resolved by us.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { parseAddress, parsePort, type IpAddress } from '../core/address.ts';

export type Authority =
  | { readonly kind: 'address'; readonly ip: IpAddress; readonly port: number }
  | { readonly kind: 'hostname'; readonly hostname: string; readonly port: number };

const AUTHORITY_TEXT_MAX = 320;
/** RFC 1123 names; the last label must not be a number, so that `0x7f.1` or `127.1` is never a name. */
const HOSTNAME =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

function invalid(text: string, reason: string): Result<never> {
  const shown = JSON.stringify(text.slice(0, 80));
  return fail(
    new MeshError('MESH_TUNNEL_REQUEST_INVALID', `Cannot read authority ${shown}: ${reason}`),
  );
}

export function parseAuthority(text: string): Result<Authority> {
  if (text.length > AUTHORITY_TEXT_MAX) return invalid(text, 'too long');
  const colon = text.lastIndexOf(':');
  if (colon < 0) return invalid(text, 'no port');
  const port = parsePort(text.slice(colon + 1));
  if (!port.ok) return invalid(text, 'the port is not a number from 1 to 65535');
  const host = text.slice(0, colon);
  if (host.startsWith('[') || host.includes(':')) {
    if (!host.startsWith('[') || !host.endsWith(']')) return invalid(text, 'IPv6 needs brackets');
    const ip = parseAddress(host.slice(1, -1));
    if (!ip.ok || !host.includes(':')) return invalid(text, 'not an IPv6 address');
    return ok({ kind: 'address', ip: ip.value, port: port.value });
  }
  const ip = parseAddress(host);
  if (ip.ok) return ok({ kind: 'address', ip: ip.value, port: port.value });
  if (!HOSTNAME.test(host)) return invalid(text, 'neither an address nor a host name');
  return ok({ kind: 'hostname', hostname: host, port: port.value });
}

/**
 * TLS as the mesh speaks it: 1.3 only, ALPN h2, AES-GCM, X25519MLKEM768 preferred, no resumption, no SNI
 * (T07, T130, T131, C10). Only options are made here; sockets belong to tunnel/ and discovery/.
 *
 * Facts (tried, Node 26.10, OpenSSL 3.5):
 * - A context costs 0.4 ms, so they are kept: `SecureContextCache`.
 * - With SSL_OP_NO_TICKET a 1.3 server still sends two tickets, but they only name a session that Node's
 *   contexts do not store: offering one gets a full handshake. Clients of ours never offer any.
 * - `tls.connect({ servername: '' })` sends no SNI, and calls `checkServerIdentity` with a full
 *   `getPeerCertificate(true)` (170 us) whatever the function does.
 * - `ca: []` trusts nobody; only a missing `ca` means Node's built-in roots.
 * - X25519MLKEM768 costs a pair of handshakes 2.4 ms of CPU in all instead of 2.1.
 */

import { constants } from 'node:crypto';
import {
  createSecureContext,
  type ConnectionOptions,
  type PeerCertificate,
  type SecureContext,
  type TLSSocketOptions,
} from 'node:tls';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { addressBytes, parseAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import { type CertificateFields, readCertificate, URI_NAME_TAG } from './certificate-reader.ts';
import { parsePem } from './pem.ts';
import { bundlePem, readRoot, type TrustBundle } from './trust-bundle.ts';
import type { WorkloadCertificate } from './workload-certificate.ts';

export const TLS_CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384';
export const TLS_GROUPS = 'X25519MLKEM768:X25519:P-256';
const ALPN: string[] = ['h2'];

const COMMON = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: TLS_CIPHERS,
  ecdhCurve: TLS_GROUPS,
  honorCipherOrder: true,
  secureOptions: constants.SSL_OP_NO_TICKET,
} as const;

/** A context for either side of a tunnel or a discovery server. Throws what OpenSSL throws for bad PEM. */
export function createMeshSecureContext(
  certificate: WorkloadCertificate,
  bundle: TrustBundle,
): SecureContext {
  return createSecureContext({
    ...COMMON,
    key: certificate.privateKeyPem,
    cert: certificate.chainPem.join(''),
    ca: bundlePem(bundle),
  });
}

/**
 * For `new TLSSocket(raw, options)` on the accepting end of a tunnel. Node does not act on the verification
 * of such a socket: `authenticatePeer` must be called in `secure`, before any byte is read.
 */
export function tunnelServerOptions(context: SecureContext): TLSSocketOptions {
  return {
    isServer: true,
    secureContext: context,
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ALPN,
  };
}

/**
 * For `tls.connect({ socket, ...options })` on the dialling end of a tunnel. OpenSSL's verification decides
 * whether `secureConnect` comes at all; who the peer is, `authenticatePeer` says there.
 */
export function tunnelClientOptions(context: SecureContext): ConnectionOptions {
  return {
    secureContext: context,
    servername: '',
    rejectUnauthorized: true,
    checkServerIdentity: () => undefined,
    ALPNProtocols: ALPN,
  };
}

/** For the controller's listener: clients prove themselves with tokens, not certificates. */
export function discoveryServerOptions(context: SecureContext): TLSSocketOptions {
  return { isServer: true, secureContext: context, requestCert: false, ALPNProtocols: ALPN };
}

export interface DiscoveryPeer {
  /** The installed roots, PEM; the system's are never consulted. */
  readonly rootsPem: readonly string[];
  /** DNS name or IP address the controller's certificate must carry, or the identity it must have. */
  readonly expected:
    | { readonly kind: 'host'; readonly host: string }
    | { readonly kind: 'identity'; readonly identity: SpiffeId };
}

/**
 * For `tls.connect({ socket, ...options })` to a controller (T07). Throws `MESH_CONFIG_INVALID` unless there is
 * at least one root and every one is readable: OpenSSL skips what it cannot read without a word.
 */
export function discoveryClientOptions(peer: DiscoveryPeer): ConnectionOptions {
  return {
    secureContext: createSecureContext({ ...COMMON, ca: readInstalledRoots(peer.rootsPem) }),
    servername: '',
    rejectUnauthorized: true,
    checkServerIdentity: (_host: string, certificate: PeerCertificate) => {
      const result = checkController(certificate.raw, peer.expected);
      return result.ok ? undefined : result.error;
    },
    ALPNProtocols: ALPN,
  };
}

function readInstalledRoots(texts: readonly string[]): string[] {
  const roots: string[] = [];
  for (const text of texts) {
    const blocks = parsePem('CERTIFICATE', text);
    if (!blocks.ok) throw unusableRoots(blocks.error.message, blocks.error);
    for (const der of blocks.value) {
      const root = readRoot(der);
      if (!root.ok) throw unusableRoots(root.error.message, root.error);
      roots.push(root.value.pem);
    }
  }
  if (roots.length === 0) throw unusableRoots('there is none');
  return roots;
}

function unusableRoots(reason: string, cause?: MeshError): MeshError {
  const message = `Cannot trust any controller: the installed roots are unusable: ${reason}`;
  return new MeshError('MESH_CONFIG_INVALID', message, { cause });
}

/** Whether the leaf in `der` carries the expected name: exact, from the DER, no wildcards, no common name. */
export function checkController(der: Buffer, expected: DiscoveryPeer['expected']): Result<void> {
  const leaf = readCertificate(der);
  if (!leaf.ok) return leaf;
  const shown = expected.kind === 'host' ? expected.host : expected.identity;
  if (!leaf.value.isCa && carries(leaf.value, expected)) return ok(undefined);
  const message = `Cannot accept controller certificate: it does not carry "${shown}"`;
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', message));
}

const DNS_NAME_TAG = 0x82;
const IP_NAME_TAG = 0x87;

function carries(leaf: CertificateFields, expected: DiscoveryPeer['expected']): boolean {
  const has = (tag: number, bytes: Buffer): boolean =>
    leaf.names.some((name) => name.tag === tag && name.bytes.equals(bytes));
  if (expected.kind === 'identity') return has(URI_NAME_TAG, Buffer.from(expected.identity));
  const ip = parseAddress(expected.host);
  if (ip.ok) return has(IP_NAME_TAG, addressBytes(ip.value));
  return has(DNS_NAME_TAG, Buffer.from(expected.host.toLowerCase()));
}

/**
 * Building certificates: root, intermediate, workload leaf and controller leaf. Everything in them comes from
 * the arguments here, nothing from a request (T03). Each kind has one fixed shape.
 */

import { createHash, type KeyObject } from 'node:crypto';

import type { Random } from '../base/random.ts';
import { type IpAddress, addressBytes } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import { readDer } from './der.ts';
import {
  bitString,
  boolean,
  type DerNode,
  encodeDer,
  encoded,
  explicit,
  implicit,
  integer,
  octetString,
  oid,
  sequence,
  set,
  time,
  utf8String,
} from './der-writer.ts';
import { type KeyPair, publicKeyDer, signatureAlgorithm, signWith } from './keys.ts';
import { OID } from './oids.ts';

/** Certificates are valid from this long before now, for clocks that are behind (T128). */
export const NOT_BEFORE_BACKDATE_MS: number = 5 * 60 * 1000;
const SERIAL_BYTES = 16;

/** Who signs. */
export interface CertificateIssuer {
  readonly privateKey: KeyObject;
  /** The Name of the issuing certificate, as it is encoded there. */
  readonly subjectDer: Buffer;
  /** Its subjectKeyIdentifier. */
  readonly keyId: Buffer;
}

export interface Validity {
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Self-signed, `O=<trustDomain>, CN=<commonName>`, may sign CAs and leaves. */
export function buildRoot(
  keys: KeyPair,
  trustDomain: string,
  commonName: string,
  validity: Validity,
  random: Random,
): Buffer {
  const subject = subjectName(trustDomain, commonName);
  const issuer: CertificateIssuer = {
    privateKey: keys.privateKey,
    subjectDer: encodeDer(subject),
    keyId: keyIdOf(publicKeyDer(keys.publicKey)),
  };
  const extensions = [...caExtensions(undefined)];
  return build(issuer, publicKeyDer(keys.publicKey), subject, validity, extensions, random);
}

/** A CA whose path length is 0: it signs leaves and no further CAs. */
export function buildIntermediate(
  issuer: CertificateIssuer,
  publicKey: KeyObject,
  trustDomain: string,
  commonName: string,
  validity: Validity,
  random: Random,
): Buffer {
  const subject = subjectName(trustDomain, commonName);
  return build(issuer, publicKeyDer(publicKey), subject, validity, caExtensions(0), random);
}

/** A workload's X509-SVID: empty subject, one critical URI SAN. */
export function buildLeaf(
  issuer: CertificateIssuer,
  publicKey: KeyObject,
  identity: SpiffeId,
  validity: Validity,
  random: Random,
): Buffer {
  return buildServerLeaf(issuer, publicKey, { identity, dnsNames: [], ips: [] }, validity, random);
}

/** What a controller's certificate is good for; names are ASCII, checked by the caller. */
export interface ServerNames {
  readonly identity: SpiffeId;
  readonly dnsNames: readonly string[];
  readonly ips: readonly IpAddress[];
}

/** As a workload's leaf, with DNS and IP names beside the one URI, for peers that check a host name. */
export function buildServerLeaf(
  issuer: CertificateIssuer,
  publicKey: KeyObject,
  names: ServerNames,
  validity: Validity,
  random: Random,
): Buffer {
  const san = sequence(
    implicit(6, Buffer.from(names.identity, 'latin1')),
    ...names.dnsNames.map((name) => implicit(2, Buffer.from(name, 'latin1'))),
    ...names.ips.map((ip) => implicit(7, addressBytes(ip))),
  );
  const extensions = [
    extension(OID.basicConstraints, true, sequence()),
    extension(OID.keyUsage, true, bitString(Buffer.of(0x80), 7)),
    extension(OID.extendedKeyUsage, false, sequence(oid(OID.serverAuth), oid(OID.clientAuth))),
    extension(OID.subjectAltName, true, san),
  ];
  return build(issuer, publicKeyDer(publicKey), sequence(), validity, extensions, random);
}

/** The first 160 bits of SHA-256 over the key's bits (RFC 7093, method 1). */
export function keyIdOf(spki: Buffer): Buffer {
  const value = readDer(spki);
  const bits = value.ok ? value.value.children[1]?.content.subarray(1) : undefined;
  return createHash('sha256')
    .update(bits ?? spki)
    .digest()
    .subarray(0, 20);
}

function build(
  issuer: CertificateIssuer,
  spki: Buffer,
  subject: DerNode,
  validity: Validity,
  extensions: readonly DerNode[],
  random: Random,
): Buffer {
  const algorithm = signatureAlgorithm(issuer.privateKey);
  const body = encodeDer(
    sequence(
      explicit(0, integer(Buffer.of(2))),
      integer(random.bytes(SERIAL_BYTES)),
      algorithm,
      encoded(issuer.subjectDer),
      sequence(time(validity.notBeforeMs), time(validity.notAfterMs)),
      subject,
      encoded(spki),
      explicit(
        3,
        sequence(
          ...extensions,
          extension(OID.subjectKeyIdentifier, false, octetString(keyIdOf(spki))),
          extension(OID.authorityKeyIdentifier, false, sequence(implicit(0, issuer.keyId))),
        ),
      ),
    ),
  );
  const signature = bitString(signWith(issuer.privateKey, body));
  return encodeDer(sequence(encoded(body), algorithm, signature));
}

function caExtensions(pathLength: number | undefined): readonly DerNode[] {
  const limit = pathLength === undefined ? [] : [integer(Buffer.of(pathLength))];
  return [
    extension(OID.basicConstraints, true, sequence(boolean(true), ...limit)),
    // keyCertSign and cRLSign, bits 5 and 6.
    extension(OID.keyUsage, true, bitString(Buffer.of(0x06), 1)),
  ];
}

function extension(id: string, critical: boolean, value: DerNode): DerNode {
  const flag = critical ? [boolean(true)] : [];
  return sequence(oid(id), ...flag, octetString(encodeDer(value)));
}

function subjectName(organization: string, commonName: string): DerNode {
  const part = (id: string, text: string): DerNode => set(sequence(oid(id), utf8String(text)));
  return sequence(part(OID.organization, organization), part(OID.commonName, commonName));
}

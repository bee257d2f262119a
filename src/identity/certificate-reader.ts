/**
 * An X.509 certificate as plain data, read from DER (never from Node's printed names: C30, CVE-2021-44531).
 * Strict: version 3, no duplicate extensions, no unknown critical ones. It judges form only; what a leaf may
 * be is in svid.ts, what a chain may be in peer.ts.
 */

import { createPublicKey, X509Certificate } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import {
  DER,
  type DerValue,
  oidText,
  readDer,
  smallInteger,
  timeMs,
  wholeBitString,
} from './der.ts';
import { OID } from './oids.ts';

export const CERTIFICATE_EXTENSIONS_MAX = 32;
export const CERTIFICATE_NAMES_MAX = 64;
/** RFC 5280, 4.1.2.2. */
const SERIAL_MAX_BYTES = 20;

/** One GeneralName: its identifier octet (`0x86` is a URI) and its bytes, undecoded (C62). */
export interface GeneralName {
  readonly tag: number;
  readonly bytes: Buffer;
}

export const URI_NAME_TAG = 0x86;

/** Bits of keyUsage, RFC 5280 4.2.1.3: bit n of the BIT STRING is 1 << n here. */
export const KEY_USAGE = {
  digitalSignature: 0x01,
  keyCertSign: 0x20,
  cRLSign: 0x40,
} as const;

export interface CertificateFields {
  readonly der: Buffer;
  /** Lower-case hex without leading zero bytes. */
  readonly serial: string;
  readonly issuerDer: Buffer;
  readonly subjectDer: Buffer;
  readonly isSubjectEmpty: boolean;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly publicKeyDer: Buffer;
  /** Absent extension: not a CA. */
  readonly isCa: boolean;
  readonly pathLength: number | undefined;
  /** Bit set by `KEY_USAGE`; undefined when the extension is absent. */
  readonly keyUsage: number | undefined;
  readonly isKeyUsageCritical: boolean;
  /** OIDs; undefined when absent. */
  readonly extendedKeyUsage: readonly string[] | undefined;
  readonly names: readonly GeneralName[];
  readonly areNamesCritical: boolean;
  readonly subjectKeyId: Buffer | undefined;
  readonly signatureOid: string;
  readonly signedDer: Buffer;
  readonly signature: Buffer;
}

/** Errors are `MESH_DER_INVALID` (not DER) or `MESH_CERTIFICATE_INVALID` (not a certificate we read). */
export function readCertificate(der: Buffer): Result<CertificateFields> {
  const root = readDer(der);
  if (!root.ok) return root;
  try {
    return ok(certificateFields(root.value));
  } catch (error) {
    if (!(error instanceof CertificateFault)) throw error;
    const message = `Cannot read certificate: ${error.message}`;
    return fail(new MeshError('MESH_CERTIFICATE_INVALID', message));
  }
}

/** SHA-1 and older are not in the list. */
const SIGNATURES: ReadonlySet<string> = new Set([
  OID.ecdsaWithSha256,
  OID.ecdsaWithSha384,
  OID.ecdsaWithSha512,
  OID.ed25519,
  OID.rsaPss,
  OID.rsaWithSha256,
  OID.rsaWithSha384,
  OID.rsaWithSha512,
]);

/** Whether the certificate's signature is by the key in `issuerKeyDer` (SubjectPublicKeyInfo). */
export function isSignedBy(fields: CertificateFields, issuerKeyDer: Buffer): boolean {
  if (!SIGNATURES.has(fields.signatureOid)) return false;
  try {
    const key = createPublicKey({ key: issuerKeyDer, format: 'der', type: 'spki' });
    return new X509Certificate(fields.der).verify(key);
  } catch {
    return false;
  }
}

class CertificateFault extends Error {}

interface Extension {
  readonly isCritical: boolean;
  readonly value: DerValue;
}

function certificateFields(root: DerValue): CertificateFields {
  const [tbs, outerAlgorithm, signatureBits] = sequenceOf(root, 'certificate', 3, 3);
  const body = sequenceOf(tbs, 'body', 7, 10);
  const [version, serial, algorithm, issuer, validity, subject, spki, ...rest] = body;
  const versionNumber = version?.tag === 0xa0 ? version.children[0] : undefined;
  if (versionNumber === undefined || smallInteger(versionNumber) !== 2) fault('not version 3');
  if (serial?.tag !== DER.INTEGER || serial.content.length > SERIAL_MAX_BYTES + 1) {
    fault('malformed serial number');
  }
  const signature = wholeBitString(signatureBits);
  const [algorithmId] = sequenceOf(algorithm, 'algorithm', 1, 2);
  if (algorithmId?.tag !== DER.OID || signature === undefined) fault('malformed signature');
  if (outerAlgorithm === undefined || !outerAlgorithm.raw.equals(algorithm?.raw ?? Buffer.of())) {
    fault('two signature algorithms');
  }
  const [notBefore, notAfter] = sequenceOf(validity, 'validity', 2, 2).map(timeMs);
  if (notBefore === undefined || notAfter === undefined) fault('malformed validity');
  sequenceOf(issuer, 'issuer', 0, CERTIFICATE_NAMES_MAX);
  const subjectParts = sequenceOf(subject, 'subject', 0, CERTIFICATE_NAMES_MAX);
  sequenceOf(spki, 'public key', 2, 2);
  const extensions = readExtensions(rest);
  const take = (id: string): Extension | undefined => extensions.get(id);
  const keyUsage = take(OID.keyUsage);
  const names = take(OID.subjectAltName);
  return {
    der: root.raw,
    serial: serial.content.toString('hex').replace(/^(00)+(?=.)/, ''),
    issuerDer: issuer?.raw ?? Buffer.of(),
    subjectDer: subject?.raw ?? Buffer.of(),
    isSubjectEmpty: subjectParts.length === 0,
    notBeforeMs: notBefore,
    notAfterMs: notAfter,
    publicKeyDer: spki?.raw ?? Buffer.of(),
    ...basicConstraints(take(OID.basicConstraints)),
    keyUsage: keyUsage === undefined ? undefined : keyUsageBits(keyUsage.value),
    isKeyUsageCritical: keyUsage?.isCritical ?? false,
    extendedKeyUsage: extendedKeyUsage(take(OID.extendedKeyUsage)),
    names: names === undefined ? [] : generalNames(names.value),
    areNamesCritical: names?.isCritical ?? false,
    subjectKeyId: take(OID.subjectKeyIdentifier)?.value.content,
    signatureOid: oidText(algorithmId),
    signedDer: tbs?.raw ?? Buffer.of(),
    signature,
  };
}

const UNDERSTOOD: ReadonlySet<string> = new Set([
  OID.basicConstraints,
  OID.keyUsage,
  OID.extendedKeyUsage,
  OID.subjectAltName,
  OID.subjectKeyIdentifier,
  OID.authorityKeyIdentifier,
]);

function readExtensions(rest: readonly DerValue[]): Map<string, Extension> {
  const extensions = new Map<string, Extension>();
  for (const part of rest) {
    // [1] and [2], unique identifiers, may stand in front; RFC 5280 tells CAs not to write them.
    if (part.tag !== 0xa3 || part !== rest[rest.length - 1]) fault('unexpected part in the body');
    const list = sequenceOf(part.children[0], 'extensions', 1, CERTIFICATE_EXTENSIONS_MAX);
    if (part.children.length !== 1) fault('malformed extensions');
    for (const item of list) {
      const fields = sequenceOf(item, 'extension', 2, 3);
      const [id] = fields;
      const critical = fields.length === 3 ? fields[1] : undefined;
      const wrapped = fields[fields.length - 1];
      if (
        id?.tag !== DER.OID ||
        wrapped?.tag !== DER.OCTET_STRING ||
        (fields.length === 3 && critical?.tag !== DER.BOOLEAN)
      ) {
        fault('malformed extension');
      }
      const name = oidText(id);
      const isCritical = critical?.content[0] === 0xff;
      if (extensions.has(name)) fault(`extension "${name}" twice`);
      if (!UNDERSTOOD.has(name)) {
        if (isCritical) fault(`critical extension "${name}" is not understood`);
        continue;
      }
      const value = readDer(wrapped.content);
      if (!value.ok) fault(`extension "${name}" is not DER`);
      extensions.set(name, { isCritical, value: value.value });
    }
  }
  return extensions;
}

function basicConstraints(
  extension: Extension | undefined,
): Pick<CertificateFields, 'isCa' | 'pathLength'> {
  if (extension === undefined) return { isCa: false, pathLength: undefined };
  const [first, second] = sequenceOf(extension.value, 'basic constraints', 0, 2);
  const hasFlag = first?.tag === DER.BOOLEAN;
  const isCa = hasFlag && first.content[0] === 0xff;
  const length = hasFlag ? second : first;
  if (length === undefined) return { isCa, pathLength: undefined };
  const pathLength = smallInteger(length);
  if (pathLength === undefined || (!hasFlag && second !== undefined)) {
    fault('malformed basic constraints');
  }
  return { isCa, pathLength };
}

function keyUsageBits(value: DerValue): number {
  if (value.tag !== DER.BIT_STRING || value.content.length > 3) fault('malformed key usage');
  let bits = 0;
  for (let index = 0; index < (value.content.length - 1) * 8; index++) {
    const byte = value.content[1 + (index >> 3)] ?? 0;
    if ((byte & (0x80 >> (index & 7))) !== 0) bits |= 1 << index;
  }
  return bits;
}

function extendedKeyUsage(extension: Extension | undefined): readonly string[] | undefined {
  if (extension === undefined) return undefined;
  const list = sequenceOf(extension.value, 'extended key usage', 1, CERTIFICATE_NAMES_MAX);
  return list.map((item) =>
    item.tag === DER.OID ? oidText(item) : fault('malformed key purpose'),
  );
}

function generalNames(value: DerValue): readonly GeneralName[] {
  return sequenceOf(value, 'alternative names', 1, CERTIFICATE_NAMES_MAX).map((item) => {
    if ((item.tag & 0xc0) !== 0x80) fault('malformed alternative name');
    // A URI dressed up as constructed would be read by some and skipped by others.
    if (item.tag === 0xa6) fault('malformed URI name');
    return { tag: item.tag, bytes: item.content };
  });
}

function sequenceOf(
  value: DerValue | undefined,
  what: string,
  min: number,
  max: number,
): readonly DerValue[] {
  if (value?.tag !== DER.SEQUENCE) fault(`malformed ${what}`);
  const { length } = value.children;
  if (length < min || length > max) fault(`malformed ${what}`);
  return value.children;
}

function fault(reason: string): never {
  throw new CertificateFault(reason);
}

/**
 * Certificates with their keys across a restart of the container, on a memory-backed volume and nowhere
 * else: keys are never on a disk of a node (T124). The volume is checked at opening and before every write.
 */

import { constants } from 'node:fs';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';
import type { SpiffeId } from '../core/identity.ts';
import { replaceFile } from './ca-storage.ts';
import { createWorkloadCertificate, type WorkloadCertificate } from './workload-certificate.ts';

const FILE = 'certificates.json';
/** 4,096 identities at about 4 KiB each, with room. */
const FILE_MAX_BYTES: number = 64 * 1024 * 1024;

/** What a successor needs to serve without the controller. */
export interface StoredCertificates {
  readonly certificates: readonly WorkloadCertificate[];
  /** PEM roots by trust domain. */
  readonly rootsPem: ReadonlyMap<string, readonly string[]>;
}

export interface KeyStore {
  /** Replaces the file in one step, mode 0600. One write at a time; the caller awaits. */
  save(stored: StoredCertificates): Promise<void>;
  /** What was saved; undefined when nothing was or it is unreadable. Certificates that do not hold up are left out. */
  load(): Promise<StoredCertificates | undefined>;
  /** Removes the file. */
  clear(): Promise<void>;
}

/**
 * Opens the store in `directory` (made with mode 0700 if missing). Rejects with `MESH_CONFIG_INVALID` when
 * `isMemoryBacked` says no.
 */
export async function openKeyStore(
  directory: string,
  isMemoryBacked: (path: string) => boolean,
): Promise<KeyStore> {
  const check = (): void => {
    if (isMemoryBacked(directory)) return;
    const message = `Cannot keep keys in "${directory}": it is not memory-backed; mount a tmpfs (emptyDir with medium "Memory")`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  };
  await mkdir(directory, { recursive: true, mode: 0o700 });
  check();
  return {
    async save({ certificates, rootsPem }) {
      check();
      const text = JSON.stringify({ certificates, rootsPem: [...rootsPem] });
      await replaceFile(directory, FILE, text);
    },
    async load() {
      const text = await readFileOnce(join(directory, FILE));
      return text === undefined ? undefined : parseStored(text);
    },
    async clear() {
      await rm(join(directory, FILE), { force: true });
    },
  };
}

/** The file's text if it is a plain file of ours; a link or somebody else's file is not followed. */
async function readFileOnce(path: string): Promise<string | undefined> {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch {
    return undefined;
  }
  try {
    const stat = await file.stat();
    const isOurs = stat.isFile() && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0;
    if (!isOurs || stat.size > FILE_MAX_BYTES) return undefined;
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

function parseStored(text: string): StoredCertificates | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { certificates, rootsPem } = value as StoredFields;
  if (!Array.isArray(certificates) || !Array.isArray(rootsPem)) return undefined;
  const roots = new Map<string, readonly string[]>();
  for (const pair of rootsPem as readonly unknown[]) {
    if (!Array.isArray(pair)) return undefined;
    const [domain, pems] = pair as readonly unknown[];
    if (typeof domain !== 'string' || !isTextList(pems)) return undefined;
    roots.set(domain, pems);
  }
  const restored = (certificates as readonly unknown[]).map(parseCertificate);
  return { certificates: restored.filter((one) => one !== undefined), rootsPem: roots };
}

interface StoredFields {
  readonly certificates?: unknown;
  readonly rootsPem?: unknown;
}

function parseCertificate(value: unknown): WorkloadCertificate | undefined {
  if (!isRecord(value)) return undefined;
  const { identity, privateKeyPem, chainPem } = value as {
    readonly identity?: unknown;
    readonly privateKeyPem?: unknown;
    readonly chainPem?: unknown;
  };
  if (typeof identity !== 'string' || typeof privateKeyPem !== 'string' || !isTextList(chainPem)) {
    return undefined;
  }
  // Everything else is read from the certificate again, and the identity must be the one in it.
  const certificate = createWorkloadCertificate(identity as SpiffeId, privateKeyPem, chainPem);
  return certificate.ok ? certificate.value : undefined;
}

function isRecord(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function isTextList(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

/** PEM with bounds: labels are exact, base64 is canonical, nothing but white space stands between blocks. */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

/** Text beyond this is refused unread. */
export const PEM_MAX_CHARS: number = 512 * 1024;
export const PEM_MAX_BLOCKS = 64;

export type PemLabel = 'CERTIFICATE' | 'CERTIFICATE REQUEST' | 'PRIVATE KEY' | 'PUBLIC KEY';

const BLOCK = /-----BEGIN ([A-Z0-9 ]{1,40})-----([A-Za-z0-9+/=\s]*)-----END \1-----/y;
const SPACE = /\s*/y;

/** One block, lines of 64, ending in a newline. */
export function formatPem(label: PemLabel, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/**
 * The DER of every block in order; all must carry `label`. Lines of text before a block (as `openssl x509
 * -text` prints) are refused. Errors are `MESH_DER_INVALID`. No block at all is an empty list.
 */
export function parsePem(label: PemLabel, text: string): Result<Buffer[]> {
  if (text.length > PEM_MAX_CHARS) return refuse(`longer than ${PEM_MAX_CHARS} characters`);
  const blocks: Buffer[] = [];
  let at = skipSpace(text, 0);
  while (at < text.length) {
    BLOCK.lastIndex = at;
    const match = BLOCK.exec(text);
    if (match === null) return refuse('no PEM block where one was expected');
    if (match[1] !== label) return refuse(`a "${match[1]}" where a "${label}" was expected`);
    if (blocks.length === PEM_MAX_BLOCKS) return refuse(`more than ${PEM_MAX_BLOCKS} blocks`);
    const base64 = (match[2] ?? '').replaceAll(/\s+/g, '');
    const der = Buffer.from(base64, 'base64');
    // Buffer skips what is not base64 without a word; the round trip finds it.
    if (der.length === 0 || der.toString('base64') !== base64) return refuse('malformed base64');
    blocks.push(der);
    at = skipSpace(text, at + match[0].length);
  }
  return ok(blocks);
}

/** As `parsePem` where exactly one block must be. */
export function parseOnePem(label: PemLabel, text: string): Result<Buffer> {
  const blocks = parsePem(label, text);
  if (!blocks.ok) return blocks;
  const [der] = blocks.value;
  if (der === undefined || blocks.value.length > 1) {
    return refuse(`${blocks.value.length} "${label}" blocks where one was expected`);
  }
  return ok(der);
}

function skipSpace(text: string, from: number): number {
  SPACE.lastIndex = from;
  SPACE.exec(text);
  return SPACE.lastIndex;
}

function refuse(reason: string): Result<never> {
  return fail(new MeshError('MESH_DER_INVALID', `Cannot read PEM: ${reason}`));
}

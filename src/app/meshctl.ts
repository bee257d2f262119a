/** Composition root of `meshctl`: the terminal, the environment and the version, handed to the command. */

import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { EXIT, type CommandIo, type ExitCode } from '../cli/io.ts';
import { runProgram } from '../cli/program.ts';

function readVersion(): string {
  const text = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** https://no-color.org and its opposite: whoever says nothing gets colours on a terminal. */
function wantsColor(): boolean {
  const { NO_COLOR: no, FORCE_COLOR: force } = process.env;
  if (no !== undefined && no !== '') return false;
  if (force !== undefined && force !== '' && force !== '0') return true;
  return process.stdout.isTTY && process.env['TERM'] !== 'dumb';
}

function wantsUnicode(): boolean {
  const { LC_ALL, LC_CTYPE, LANG } = process.env;
  return /utf-?8/i.test(LC_ALL ?? LC_CTYPE ?? LANG ?? '');
}

async function readInput(path: string): Promise<string> {
  if (path !== '-') return readFile(path, 'utf8');
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

export async function runMeshctl(args: readonly string[]): Promise<ExitCode> {
  const interrupt = new AbortController();
  process.once('SIGINT', () => {
    interrupt.abort();
    // What hangs in spite of it is ended by the second Ctrl-C.
    process.once('SIGINT', () => process.exit(EXIT.interrupted));
  });
  // `meshctl … | head`: whoever reads has enough.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.good);
    throw error;
  });
  const io: CommandIo = {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    columns: process.stdout.isTTY ? process.stdout.columns : undefined,
    color: wantsColor(),
    unicode: wantsUnicode(),
    env: (name) => process.env[name],
    now: () => Date.now(),
    signal: interrupt.signal,
    readFile: readInput,
  };
  return runProgram(args, { io, version: readVersion() });
}

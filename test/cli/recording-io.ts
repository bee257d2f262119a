/** A terminal that remembers what was said to it. */

import type { CommandIo } from '../../src/cli/io.ts';

export interface RecordingIo extends CommandIo {
  readonly stdout: () => string;
  readonly stderr: () => string;
}

export interface RecordingOptions {
  readonly files?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  readonly now?: number;
  readonly color?: boolean;
  readonly columns?: number;
}

export function createRecordingIo(options: RecordingOptions = {}): RecordingIo {
  let stdout = '';
  let stderr = '';
  return {
    out(text) {
      stdout += text;
    },
    err(text) {
      stderr += text;
    },
    columns: options.columns,
    color: options.color ?? false,
    unicode: true,
    env: (name) => options.env?.[name],
    now: () => options.now ?? 0,
    signal: new AbortController().signal,
    readFile: async (path) => {
      const text = options.files?.[path];
      if (text === undefined) throw new Error(`no such file: ${path}`);
      return text;
    },
    stdout: () => stdout,
    stderr: () => stderr,
  };
}

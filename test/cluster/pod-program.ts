/**
 * The program of every test pod of a real cluster. It knows nothing of the mesh, as a user's program would not.
 *
 * - `serve NAME VERSION PORT http|db [LAME_MS [FAIL_PERCENT]]`: the demo's applications; on SIGTERM it serves for LAME_MS
 *   more (default 3000), as one does that waits for its endpoint to be taken away, then ends; `http` answers this share
 *   of its requests with 503 (default 0);
 * - `first-act HOST PORT`: its very first act is to connect and to speak, again and again until it is answered; then it
 *   stays, and says on standard output how often it tried, and of the first tries why they failed;
 * - `chatter HOST PORT`: the same, but it goes on speaking until SIGTERM;
 * - `once HOST PORT`: the same as `first-act`, but it ends when it is answered: a Job's program;
 * - `obey`: commands of `pod-commands.ts` as lines of JSON on standard input, answers on standard output;
 * - `idle`: stays until SIGTERM.
 */

import { connect } from 'node:net';
import { createInterface } from 'node:readline';

import { createPodCommands, dbApp, httpApp, type PodCommand } from '../../src/demo/pod-commands.ts';

/** One pod has one app. */
const health = { failPercent: 0 };

const LAME_MS = 3000;
const RETRY_MS = 20;
const ANSWER_MS = 2000;
const REASONS_MAX = 5;
const CHATTER_MS = 100;
/** What a listener on the wire must not find: the word is among those that `src/demo/wire.ts` looks for. */
const SPOKEN = 'say secret\n';

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Connects, speaks at once, and waits for the answer to what it said; resolves with why there was none. */
function speak(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    let heard = '';
    let stage = 'connecting';
    const socket = connect({ host, port });
    const end = (failure?: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(failure);
    };
    const timer = setTimeout(() => end(`no answer in ${ANSWER_MS} ms while ${stage}`), ANSWER_MS);
    socket.on('connect', () => (stage = 'connected'));
    socket.on('error', (error) => end(`${error.message} while ${stage}`));
    socket.on('close', () => end(`closed after "${heard.trim()}"`));
    socket.on('data', (chunk: Buffer) => {
      heard += chunk.toString('latin1');
      if (heard.includes('200 secret')) end();
    });
    socket.write(SPOKEN);
  });
}

async function speakUntilHeard(host: string, port: number): Promise<void> {
  for (let tries = 1; ; tries++) {
    const failure = await speak(host, port);
    if (failure === undefined) return say(`heard after ${tries}`);
    if (tries <= REASONS_MAX) {
      say(
        `try ${tries} failed ${Math.round(process.uptime() * 1000)} ms after the start: ${failure}`,
      );
    }
    await new Promise((resolve) => void setTimeout(resolve, RETRY_MS));
  }
}

function serve([name = 'app', version = 'v1', port, protocol, lame, fail]: string[]): void {
  health.failPercent = Number(fail ?? 0);
  const app = protocol === 'db' ? dbApp(name) : httpApp(name, version, health);
  app.on('error', (error) => {
    say(error.message);
    process.exit(1);
  });
  app.listen({ host: '::', port: Number(port), backlog: 1024 }, () => say('listening'));
  process.on('SIGTERM', () => void setTimeout(() => process.exit(0), Number(lame ?? LAME_MS)));
}

function obeyLines(): void {
  const obey = createPodCommands(health);
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      const { id, command } = JSON.parse(line) as { id: number; command: PodCommand };
      void obey(command).then((answer) => say(JSON.stringify({ id, answer })));
    })
    .on('close', () => process.exit(0));
  say('{"ready":true}');
}

const [mode, ...args] = process.argv.slice(2);
const [host = '', port = ''] = args;
process.on('SIGTERM', () => mode !== 'serve' && process.exit(0));
if (mode === 'serve') serve(args);
else if (mode === 'obey') obeyLines();
else if (mode === 'once') await speakUntilHeard(host, Number(port));
else if (mode === 'chatter') setInterval(() => void speak(host, Number(port)), CHATTER_MS);
else setInterval(() => {}, 1_000_000);
if (mode === 'chatter') void speak(host, Number(port));
if (mode === 'first-act') await speakUntilHeard(host, Number(port));

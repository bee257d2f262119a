/** The CNI script on every shell there is, with a spool folder that a test answers. */

import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { CniRequest } from '../../src/redirect/cni-request.ts';
import { announceAgent } from '../../src/redirect/presence.ts';
import { openSpool } from '../../src/redirect/spool.ts';
import {
  cniArgs,
  createScriptRig,
  networkConfig,
  POD_UID,
  PREVIOUS,
  SHELLS,
  type ScriptResult,
  type ScriptRig,
} from './script-rig.ts';

/** Writes the answer to the first request that appears, and returns the request. */
async function answerNext(
  rig: ScriptRig,
  name: string,
  suffix: string,
  text = '',
): Promise<string> {
  for (let tries = 0; tries < 1_000 && !existsSync(join(rig.spool, name)); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const request = readFileSync(join(rig.spool, name), 'utf8');
  rmSync(join(rig.spool, name));
  writeFileSync(join(rig.spool, `c1.${suffix}`), text);
  return request;
}

const HOSTILE: readonly string[] = Array.from('{}[]":,\\ \n*?$`\'é\u0081ab01');

/** A CNI error, one line of JSON, and nothing on standard error. */
function errorOf(t: Test, { status, stdout, stderr }: ScriptResult): Record<string, unknown> {
  t.equal(status, 1);
  t.equal(stderr, '');
  const error: unknown = JSON.parse(stdout);
  if (typeof error !== 'object' || error === null) throw new Error(`no error: ${stdout}`);
  return { ...error };
}

/** The living test process as the agent that announced itself. */
function announce(rig: ScriptRig): void {
  mkdirSync(rig.spool, { recursive: true, mode: 0o700 });
  const stat = readFileSync(`/proc/${process.pid}/stat`, 'latin1');
  const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  writeFileSync(join(rig.spool, 'agent'), `${process.pid} ${start}\n`);
}

t.setTimeout(300_000);
t.ok(SHELLS.length > 0, 'a shell to run on');
for (const shell of SHELLS) {
  const on = `on ${shell.join(' ')}`;

  void t.test(`pods outside the mesh pass at once, byte for byte, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell);
    const { status, stdout, stderr } = await rig.run('ADD');
    t.same({ status, stdout, stderr }, { status: 0, stdout: `${PREVIOUS}\n`, stderr: '' });
    t.equal(existsSync(rig.spool), false, 'nothing was asked');
    // Listed by mistake, and with nobody to answer: what carries the node starts all the same.
    announce(rig);
    for (const namespace of ['kube-system', 'nodemesh-system']) {
      writeFileSync(join(rig.enrolled, namespace), '');
      const env = { CNI_ARGS: cniArgs(namespace) };
      t.equal((await rig.run('ADD', { env })).stdout, `${PREVIOUS}\n`, namespace);
    }
    writeFileSync(join(rig.enrolled, 'shop'), '');
    const env = { CNI_ARGS: cniArgs('shop', '0123456789abcdef0123456789abcdef') };
    t.equal((await rig.run('ADD', { env })).stdout, `${PREVIOUS}\n`, 'a static pod');
    writeFileSync(join(rig.outside, POD_UID), '');
    t.equal((await rig.run('ADD')).stdout, `${PREVIOUS}\n`, 'its own label keeps it out');
    t.same(readdirSync(rig.spool), ['agent']);
    const times: number[] = [];
    for (let round = 0; round < 20; round++) times.push((await rig.run('ADD')).ms);
    const median = times.toSorted((a, b) => a - b)[10] ?? 0;
    t.comment(`a pod outside the mesh: ${median.toFixed(1)} ms, process start included`);
    const bare = await rig.run('ADD', { env: { CNI_ARGS: 'IgnoreUnknown=1' } });
    t.equal(bare.stdout, `${PREVIOUS}\n`, 'no Kubernetes pod at all');
  });

  void t.test(`a pod of an enrolled namespace waits for the answer, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell);
    writeFileSync(join(rig.enrolled, 'shop'), '');
    const running = rig.run('ADD');
    // The proxy starts later than the pod, as after a reboot.
    await new Promise((resolve) => setTimeout(resolve, 100));
    // Whole at once: the script asks as soon as it sees the folder.
    const aside = `${rig.spool}.aside`;
    mkdirSync(aside, { recursive: true });
    for (const stale of ['c1.ok', 'c1.error']) writeFileSync(join(aside, stale), 'of before');
    renameSync(aside, rig.spool);
    const request = await answerNext(rig, 'c1.add', 'ok');
    t.equal(
      request,
      `CNI_CONTAINERID=c1\nCNI_NETNS=/var/run/netns/cni-1\nK8S_POD_UID=${POD_UID}\nK8S_POD_NAME=web-1\n` +
        'K8S_POD_NAMESPACE=shop\nADDRESSES=10.244.1.5/24,fd00::5/64\nSCRIPT_VERSION=1\n',
    );
    const { status, stdout } = await running;
    t.same({ status, stdout }, { status: 0, stdout: `${PREVIOUS}\n` });
    t.equal(existsSync(join(rig.spool, 'c1.ok')), false, 'the answer is taken away');
  });

  void t.test(`refusals read like answers, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell, { enrolled: 60, unknown: 40 });
    writeFileSync(join(rig.enrolled, 'shop'), '');

    const nobody = errorOf(t, await rig.run('ADD'));
    t.match(nobody, {
      cniVersion: '1.0.0',
      code: 11,
      msg: 'Cannot start pod "shop/web-1": its namespace is in the mesh, and the node proxy of this node does not answer',
      details:
        /^no answer in 0 s in \S+\. New pods of "shop" start when the nodemesh-node pod of this node is ready again; see kubectl /,
    });
    mkdirSync(rig.spool, { recursive: true });
    t.match(errorOf(t, await rig.run('ADD')), { code: 11 }, 'a spool that nobody reads');
    t.same(readdirSync(rig.spool), [], 'the request is taken back');

    const refused = rig.run('ADD');
    await answerNext(rig, 'c1.add', 'error', 'MESH_RULES_FAILED: Cannot "set" C:\\rules\n');
    t.match(errorOf(t, await refused), {
      code: 100,
      msg: 'Cannot start pod "shop/web-1" in the mesh: MESH_RULES_FAILED: Cannot "set" C:\\rules',
    });
    const unchecked = rig.run('CHECK');
    await answerNext(rig, 'c1.check', 'error', 'rules are gone\n');
    t.match(errorOf(t, await unchecked), {
      code: 101,
      msg: 'Cannot vouch for pod "shop/web-1": rules are gone',
    });
    t.match(errorOf(t, await rig.run('CHECK')), {
      code: 11,
      msg: /^Cannot check pod "shop\/web-1"/,
    });

    t.match(errorOf(t, await rig.run('ADD', { input: networkConfig('') })), {
      code: 7,
      msg: 'Cannot work as the first plugin: the network configuration has no "prevResult"',
      details:
        'nodemesh-cni stands last in the list of plugins, behind the one that gives the pod its address',
    });
    t.match(errorOf(t, await rig.run('ADD', { input: networkConfig(PREVIOUS, '0.2.0') })), {
      code: 1,
      msg: 'Cannot work with this CNI version',
      details:
        'nodemesh-cni speaks "0.3.1","0.4.0","1.0.0","1.1.0"; the network configuration wants "0.2.0"',
    });
    const environment = [
      [{ CNI_CONTAINERID: undefined }, /^Cannot tell the container/],
      [{ CNI_CONTAINERID: '../../etc/x' }, /^Cannot tell the container/],
      [{ CNI_NETNS: undefined }, /^Cannot find the network namespace of pod "shop\/web-1"/],
      [
        { CNI_ARGS: 'K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1' },
        /^Cannot tell which pod "shop\/web-1" is: the container runtime gives no K8S_POD_UID/,
      ],
      [{ CNI_ARGS: 'K8S_POD_NAMESPACE=shop' }, /^Cannot read the name of the pod/],
      [{ CNI_ARGS: cniArgs('../shop') }, /^Cannot read the name of the pod/],
      [{ CNI_ARGS: cniArgs('a b\n"*$(id)') }, /^Cannot read the name of the pod/],
      [{ CNI_COMMAND: 'FORMAT' }, /^Cannot do "FORMAT": not a CNI command/],
      [{ CNI_COMMAND: undefined }, /^Cannot do "": not a CNI command/],
    ] as const;
    for (const [env, msg] of environment) {
      t.match(errorOf(t, await rig.run('ADD', { env })), { code: 4, msg }, String(msg));
    }
  });

  void t.test(`a configuration that is not one is refused, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell);
    const wrong = {
      nothing: '',
      'no object': '[1]',
      text: '"a"',
      'cut short': networkConfig().slice(0, -1),
      'an open string': '{"cniVersion":"1.0.0',
      'too much at the end': `${networkConfig()}x`,
      'two objects': `${networkConfig()}{}`,
      'a string behind': `${networkConfig()}"x"`,
      'closed twice': `${networkConfig()}}`,
      'two results': `{"prevResult":${PREVIOUS},"prevResult":{}}`,
      'too long': `{"a":"${'x'.repeat(70_000)}"}`,
      'a long gap': `{"a":${' '.repeat(5_000)}1}`,
    };
    for (const [name, input] of Object.entries(wrong)) {
      const error = errorOf(t, await rig.run('ADD', { input }));
      t.match(error, { code: 6, msg: /^Cannot read the network configuration: / }, name);
    }
    const absent = { null: 'null', number: '1', text: '"{}"', inside: '' };
    for (const [name, value] of Object.entries(absent)) {
      const input = value === '' ? '{"a":{"prevResult":{}}}' : networkConfig(value);
      t.match(errorOf(t, await rig.run('ADD', { input })), { code: 7 }, name);
    }
  });

  void t.test(`a pod that may be enrolled by its own label is asked about, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell, { unknown: 30 });
    announce(rig);
    const running = rig.run('ADD');
    await answerNext(rig, 'c1.add', 'ok');
    t.equal((await running).stdout, `${PREVIOUS}\n`);
    const refused = rig.run('ADD');
    await answerNext(rig, 'c1.add', 'error', 'not yet');
    t.match(errorOf(t, await refused), { code: 100 });
    t.equal(
      (await rig.run('ADD')).stdout,
      `${PREVIOUS}\n`,
      'an agent that hangs delays it a moment',
    );
    // Another process has its number by now.
    writeFileSync(join(rig.spool, 'agent'), `${process.pid} 1\n`);
    const { stdout, ms } = await rig.run('ADD');
    t.equal(stdout, `${PREVIOUS}\n`);
    for (const text of ['', '1', 'x y\n', '999999999 1\n', '-1 1\n', `../${process.pid} 1\n`]) {
      writeFileSync(join(rig.spool, 'agent'), text);
      t.equal((await rig.run('ADD')).stdout, `${PREVIOUS}\n`, JSON.stringify(text));
    }
    t.same(readdirSync(rig.spool), ['agent'], `nothing was asked (${ms.toFixed(0)} ms)`);
  });

  void t.test(`DEL, GC, STATUS and VERSION never fail and never wait, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell);
    writeFileSync(join(rig.enrolled, 'shop'), '');
    const del = async (
      env: Record<string, string | undefined> = {},
      input = 'x',
    ): Promise<void> => {
      const { status, stdout, stderr } = await rig.run('DEL', { env, input });
      t.same({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' });
    };
    await del();
    t.equal(existsSync(rig.spool), false);
    mkdirSync(rig.spool, { recursive: true });
    writeFileSync(join(rig.spool, 'c1.add'), 'nobody waits for it any more');
    await del({ CNI_NETNS: '' });
    t.same(readdirSync(rig.spool), ['c1.del']);
    t.match(readFileSync(join(rig.spool, 'c1.del'), 'utf8'), /^CNI_CONTAINERID=c1\nCNI_NETNS=\n/);
    await del({ CNI_CONTAINERID: '../c2' });
    await del({ CNI_ARGS: undefined });
    await del({ CNI_ARGS: cniArgs('kube-system') });
    t.same(readdirSync(rig.spool), ['c1.del']);
    for (const command of ['GC', 'STATUS']) {
      t.match(await rig.run(command, { input: '{' }), { status: 0, stdout: '', stderr: '' });
    }
    t.match(JSON.parse((await rig.run('VERSION', { input: '{"cniVersion":"0.3.1"}' })).stdout), {
      cniVersion: '0.3.1',
      supportedVersions: ['0.3.1', '0.4.0', '1.0.0', '1.1.0'],
    });
  });

  void t.test(`script and spool understand each other, ${on}`, async (t) => {
    const rig = createScriptRig(t, shell);
    writeFileSync(join(rig.enrolled, 'shop'), '');
    const asked: CniRequest[] = [];
    let reason: string | undefined;
    const handle = async (request: CniRequest): Promise<void> => {
      asked.push(request);
      if (reason !== undefined) throw new MeshError('MESH_RULES_FAILED', reason);
      return Promise.resolve();
    };
    const [clock, logger] = [createSystemClock(), createNullLogger()];
    const spool = openSpool({ dir: rig.spool, clock, logger, handle });
    const presence = announceAgent(rig.spool, clock, logger);
    t.teardown(() => [spool.close(), presence.stop()]);
    const { status, stdout, ms } = await rig.run('ADD');
    t.same([status, stdout], [0, `${PREVIOUS}\n`]);
    t.comment(`a pod in the mesh, answered at once: ${ms.toFixed(0)} ms`);
    t.match(await rig.run('CHECK'), { status: 0, stdout: '' });
    rmSync(join(rig.enrolled, 'shop'));
    t.equal((await rig.run('ADD')).status, 0, 'asked because an agent lives');
    t.match(await rig.run('DEL', { env: { CNI_NETNS: '' } }), { status: 0, stdout: '' });
    for (let tries = 0; tries < 200 && asked.length < 4; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    t.same(
      asked.map(({ command, addresses, podUid }) => [command, addresses.length, podUid]),
      [
        ['add', 2, POD_UID],
        ['check', 0, POD_UID],
        ['add', 2, POD_UID],
        ['del', 0, POD_UID],
      ],
    );
    reason = 'Cannot set the rules of pod "shop/web-1": nft';
    t.match(errorOf(t, await rig.run('ADD')), {
      code: 100,
      msg: 'Cannot start pod "shop/web-1" in the mesh: MESH_RULES_FAILED: Cannot set the rules of pod "shop/web-1": nft',
    });
  });

  void t.test(`any previous result passes unchanged, ${on}`, { timeout: 120_000 }, async (t) => {
    const rig = createScriptRig(t, shell);
    // What a shell cannot hold, a zero byte, JSON cannot hold unescaped either.
    const result = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue()).map((value) => {
      return JSON.stringify(value, null, 1).replaceAll('\0', '');
    });
    await fc.assert(
      fc.asyncProperty(result, fc.constantFrom('', '\n', ' \t\r\n'), async (previous, space) => {
        const input = `{ "a":[{"prevResult":{}}],${space}"prevResult":${space}${previous}${space},"z":1}${space}`;
        const { status, stdout, stderr } = await rig.run('ADD', { input });
        return status === 0 && stdout === `${previous}\n` && stderr === '';
      }),
      { numRuns: 25 },
    );
  });

  void t.test(`hostile bytes never get past it, ${on}`, { timeout: 120_000 }, async (t) => {
    const rig = createScriptRig(t, shell);
    const noise = fc.string({
      unit: fc.constantFrom(...HOSTILE),
      maxLength: 60,
    });
    await fc.assert(
      fc.asyncProperty(noise, noise, async (input, args) => {
        const env = { CNI_ARGS: `K8S_POD_NAMESPACE=${args};K8S_POD_UID=${args}` };
        const { status, stdout, stderr } = await rig.run('ADD', { input, env });
        return stderr === '' && status === 1 && 'code' in JSON.parse(stdout);
      }),
      { numRuns: 25 },
    );
  });
}

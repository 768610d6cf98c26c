#!lua flags=no-writes
-- uses streams steps limits counts
-- What is known of a task, a step or a run, and of what stands between it and its beginning, as of one moment. Its
-- entry is looked for among `most` entries of its class: who wants to know more asks again, behind the last one.
-- KEYS fixed, then
--   1 task
--   2 run
--   3 steps
-- ARGV
--   1 id
--   2 step                its name; '': the id is that of a task or run
--   3 behind              the id of the entry behind which its own is looked for; '': the last one that was claimed
--   4 most
-- Answers
--   {}                    there is no such crew
--   {now in ms, owner, suspended, record, run, steps, holder, wish, set aside, place, classes, workers, closed, limit}
--   owner                 of the crew
--   suspended             since when no task of the crew begins, in ms; '': they do
--   record                of a task or step, or {}: {state, agent, class, the last attempt that began, when it was
--     submitted, started and ended (ms), its failed attempts (packed), its approvals (packed), why it
--     was postponed ('': it wasn't), the role that it is for ('': none, or its agent says so)}
--   run                   {state, when it was submitted and ended (ms), steps on streams, its bound, class} or {}
--   steps                 {name, packed step, ...}
--   holder                {} | {packed holder, when its lease ends (''; it has none)}
--   wish                  packed, or ''
--   set aside             {'', ''} | {'delayed', due in ms} | {'agent' | 'interrupt', since or due in ms}
--   place                 {} (it doesn't wait for a slot) | {entries of its class before it, the last one that was
--     seen, 1: it was found}
--   classes               for each waiting, running
--   workers               for each that lives what it says of itself, or ''; is it to drain?
--   closed                why there is no room for the crew, or since when its Crew is gone (ms); '': there is
--   limit                 {} (it doesn't wait for the limits of its agent) | {tasks of the agent that run at most,
--     that workers hold, us between two starts, starts in one burst, ms until one may start ('': there is no such
--     limit; a limit may have gone meanwhile), tasks before it that wait for the same, the agent, or the role of which
--     no agent has room, how many agents of the role a budget or a model lets begin nothing}
local task, run, steps = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local id, step, behind, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local meta = redis.call('HMGET', META, 'uid', 'owner', 'suspended', 'closed', 'closing', 'limits')
if not meta[1] then return {} end
heed(meta[6])

local of_run = redis.call('HMGET', run, 'state', 'submitted', 'finished', 'active', 'parallel', 'class')
local record, entry = {}, ''
if step ~= '' then
  local known = of_run[1] and read_step(steps, step)
  if known then
    record = { known.state, known.agent, of_run[6], known.attempt, of_run[2], known.started, known.finished,
      redis.call('HGET', run, 'tried:' .. step) or '', redis.call('HGET', run, 'approvals:' .. step) or '',
      redis.call('HGET', run, 'waits:' .. step) or '', '' }
    entry = known.entry
  end
else
  local known = redis.call('HMGET', task, 'state', 'agent', 'class', 'attempt', 'submitted', 'started', 'finished',
    'tried', 'approvals', 'waits', 'role', 'entry')
  if known[1] then
    for i = 1, 11 do record[i] = known[i] or '' end
    entry = known[12] or ''
  end
end
local state, agent, class, attempt = record[1], record[2], record[3], record[4]

local packed = redis.call('HGET', HOLDERS, id)
local inc = packed and string.match(packed, '^([^\31]*)')
local holder = packed and { packed, redis.call('ZSCORE', LEASES, inc) or '' } or {}

local aside = { '', '' }
if state then
  local member = pack_member(id, class, agent, int((tonumber(attempt) or 0) + 1))
  local due, parked = redis.call('ZSCORE', DELAYED, member), redis.call('ZSCORE', PARKED_AGENT, member)
  local interrupted = redis.call('ZSCORE', PARKED_INTERRUPT, id)
  if due then aside = { 'delayed', due }
  elseif parked then aside = { 'agent', parked }
  elseif interrupted then aside = { 'interrupt', interrupted } end
end

local function id_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then return fields[i + 1] end
  end
end

-- How many entries of its class stand before it, the last one that was looked at, and whether its own was found.
local function place_of(of)
  local stream = STREAM[class]
  if inc == RETURNED then
    local own = string.match(packed, '^[^\31]*\31%d*\31%d\31([^\31]*)')
    return { #redis.call('XPENDING', stream, GROUP, '-', '(' .. own, most, RETURNED), own, 1 }
  end
  local before, last = behind == '' and of.back or 0, behind == '' and of.last or behind
  for _, e in ipairs(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', most)) do
    last = e[1]
    if last == entry or id_of(e[2]) == id then return { before, last, 1 } end
    before = before + 1
  end
  return { before, last, 0 }
end

local counts, classes = count_classes(), {}
for _, c in ipairs(CLASSES) do
  classes[#classes + 1], classes[#classes + 2] = counts[c].waiting, counts[c].running
end
local is_queued = (state == 'waiting' or state == 'delayed') and aside[1] == '' and (not packed or inc == RETURNED)
local place = is_queued and place_of(counts[class]) or {}

-- What holds a task that waits for the limits of its agent.
local function limit_of(consumer)
  local whose = string.sub(consumer, #LIMITED + 1)
  local one = limits and limiting().of(whose) or { held = 0, every = 0, burst = 1, most = math.huge }
  local away = 0
  for _, member in ipairs(one.members or {}) do
    one.held, away = one.held + member.held, away + (member.away_ms > 0 and 1 or 0)
  end
  local own, before = string.match(packed, '^[^\31]*\31%d*\31%d\31([^\31]*)'), 0
  for _, c in ipairs(CLASSES) do
    if tonumber(c) <= tonumber(class) then
      local to = c == class and '(' .. own or '+'
      local pending = redis.pcall('XPENDING', STREAM[c], GROUP, '-', to, most, consumer)
      before = before + (pending.err and 0 or #pending)
    end
  end
  local is_rated = one.every > 0
  return { one.most < math.huge and int(one.most) or '', int(one.held), is_rated and int(one.every) or '',
    is_rated and int(one.burst) or '', is_rated and int(math.max((one.ahead - (one.burst - 1) * one.every) / 1000, 0))
    or '', before, whose, away }
end
local limit = inc and is_limited(inc) and limit_of(inc) or {}

return { now_ms, meta[2] or '', meta[3] or '', record, of_run[1] and of_run or {},
  of_run[1] and redis.call('HGETALL', steps) or {}, holder, redis.call('HGET', WISHES, id) or '', aside, place,
  classes, live_workers(), meta[4] ~= meta[5] and meta[4] or '', limit }

-- What the queue scripts share; put in front of each of them when they are loaded.
--
-- Rules (docs/design/queue.md): safe to send twice; check first, then write; only keys that the caller declared;
-- the server's clock only; JSON is written here, never read.

local META, RUNNING, LEASES, FENCED, CLAIMS, BELL, DEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local EVENTS, AGENTS, IDS, RESULTS, WORKERS = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local PARKED, PARKED_AGENT = KEYS[13], KEYS[14]
local STREAM = { ['1'] = KEYS[15], ['3'] = KEYS[16], ['5'] = KEYS[17], ['7'] = KEYS[18], ['9'] = KEYS[19] }
local CLASSES = { '1', '3', '5', '7', '9' }
local FIXED = 19
local GROUP = 'workers'
local RETURNED = 'returned'     -- consumer that holds what was handed back; it is always "dead", so anyone may take it
local FS, LS = '\31', '\30'     -- separators of packed values and of lists in them; names are printable
local NONE = '\29'              -- an empty list in a packed value
local DAY = 86400
local DEAD_AT_ONCE = 100       -- dead incarnations that one claim looks at
local FAR = 1e13                -- ms; added to the score of an unfinished task in `ids`, so that it never looks expired

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

local function int(n) return string.format('%.0f', n) end
local function quote(text) return cjson.encode(text) end

local function split(text, separator)
  local parts = {}
  for part in string.gmatch(text, '([^' .. separator .. ']+)') do parts[#parts + 1] = part end
  return parts
end

local stamped
local function stamp()          -- now as ISO 8601; Redis has no os.date
  if not stamped then
    local seconds = math.floor(now_us / 1e6)
    local days = math.floor(seconds / 86400)
    local rest = seconds - days * 86400
    local z = days + 719468
    local era = math.floor(z / 146097)
    local doe = z - era * 146097
    local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
    local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
    local mp = math.floor((5 * doy + 2) / 153)
    local day = doy - math.floor((153 * mp + 2) / 5) + 1
    local month = mp < 10 and mp + 3 or mp - 9
    local year = yoe + era * 400 + (month <= 2 and 1 or 0)
    stamped = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day, math.floor(rest / 3600),
      math.floor(rest % 3600 / 60), rest % 60, now_us % 1e6)
  end
  return stamped
end

-- The crew is there, and is the one that the caller means.
local function is_gone(uid) return redis.call('HGET', META, 'uid') ~= uid end

-- Why this incarnation may not write, or nil.
local function barred(uid, inc)
  if is_gone(uid) then return 'gone' end
  if redis.call('SISMEMBER', FENCED, inc) == 1 then return 'fenced' end
end

-- ---------------------------------------------------------------- events

local touched = false
local function event(kind, fields, agent_events, run_events)
  local data = '{"event_type":"' .. kind .. '","timestamp":"' .. stamp() .. '",' .. fields .. '}'
  redis.call('XADD', EVENTS, 'MAXLEN', '~', 1000, '*', 'event_type', kind, 'data', data)
  if not touched then
    redis.call('EXPIRE', EVENTS, DAY)
    touched = true
  end
  if agent_events then
    redis.call('XADD', agent_events, 'MAXLEN', '~', 100, '*', 'event_type', kind, 'data', data)
    redis.call('EXPIRE', agent_events, DAY)
  end
  if run_events then
    redis.call('XADD', run_events, 'MAXLEN', '~', 500, '*', 'event_type', kind, 'data', data)
    redis.call('EXPIRE', run_events, DAY)
  end
end

local function about(agent, id, run, message)
  return '"agent_id":' .. quote(agent) .. ',"task_id":' .. quote(id) .. (run and ',"mission_id":' .. quote(run) or '')
      .. ',"message":' .. quote(message)
end

local function state_change(old, new, message)
  return '"old_state":"' .. old .. '","new_state":"' .. new .. '","message":' .. quote(message)
end

local function agent_starts(agent, agent_events)
  if redis.call('HINCRBY', AGENTS, agent, 1) == 1 then
    event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('idle', 'working', ''), agent_events)
  end
end

local function agent_stops(agent, agent_events)
  if redis.call('HINCRBY', AGENTS, agent, -1) <= 0 then
    redis.call('HDEL', AGENTS, agent)
    event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('working', 'idle', ''), agent_events)
  end
end

-- ---------------------------------------------------------------- who runs what

-- running: id -> incarnation, fence, class, entry, attempt, when it was started (ms; 0: claimed, not started),
-- whether it is counted in `agents`, agent, number of the last thing it said
local function holder(id)
  local packed = redis.call('HGET', RUNNING, id)
  if not packed then return nil end
  local f = split(packed, FS)
  return { inc = f[1], fence = f[2], class = f[3], entry = f[4], attempt = tonumber(f[5]), started = f[6],
    counted = f[7] == '1', agent = f[8], said = f[9] }
end

local function hold(id, h)
  redis.call('HSET', RUNNING, id, table.concat({ h.inc, h.fence, h.class, h.entry, int(h.attempt), h.started,
    h.counted and '1' or '0', h.agent, h.said }, FS))
end

local function holds(h, inc, fence) return h and h.inc == inc and h.fence == fence end

local function release(id, h)
  redis.call('XACK', STREAM[h.class], GROUP, h.entry)
  redis.call('XDEL', STREAM[h.class], h.entry)
  redis.call('HDEL', RUNNING, id)
end

local function queued()
  local n = 0
  for _, c in ipairs(CLASSES) do n = n + redis.call('XLEN', STREAM[c]) end
  return n
end

local function ring()
  if redis.call('LLEN', BELL) == 0 then redis.call('RPUSH', BELL, '1') end
end

-- Tells whatever scales workers that this crew has work. At most every 200 ms.
local function wake(crew)
  local last = tonumber(redis.call('HGET', META, 'woken') or '0')
  if now_ms - last >= 200 or now_ms < last then
    redis.call('HSET', META, 'woken', int(now_ms))
    redis.call('PUBLISH', 'wb:wake', crew)
  end
end

local function answer(channels, id)
  for _, channel in ipairs(split(channels or '', LS)) do redis.call('PUBLISH', channel, id) end
end

-- One more client waits for this task or run. Bounded: a client that finds no place polls.
local function subscribe(key, channel)
  if channel == '' then return end
  local known = redis.call('HGET', key, 'reply') or ''
  if #known < 4096 and not string.find(LS .. known .. LS, LS .. channel .. LS, 1, true) then
    redis.call('HSET', key, 'reply', known == '' and channel or known .. LS .. channel)
  end
end

-- Index entries of records that have expired.
local function tidy()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', IDS, '-inf', now_ms, 'LIMIT', 0, 100)) do redis.call('ZREM', IDS, id) end
end

local function bury(reason, id, fields)
  local entry = { 'reason', reason, 'id', id }
  for i = 1, math.min(#fields, 128) do entry[#entry + 1] = fields[i] end
  redis.call('XADD', DEAD, 'MAXLEN', '~', 10000, '*', unpack(entry))
end

-- ---------------------------------------------------------------- submitting

-- submitted | exists | conflict; writes the whole record.
local function add_task(task_key, run_key, id, class, agent, payload, reply, inputs, values)
  if redis.call('EXISTS', run_key) == 1 then return 'conflict' end
  if redis.call('EXISTS', task_key) == 1 then
    if redis.call('HEXISTS', task_key, 'result') == 0 then subscribe(task_key, reply) end
    return 'exists'
  end
  redis.call('HSET', task_key, 'state', 'waiting', 'agent', agent, 'class', class, 'payload', payload,
    'submitted', int(now_ms), 'inputs', inputs)
  for name, value in pairs(values) do redis.call('HSET', task_key, 'input:' .. name, value) end
  subscribe(task_key, reply)
  redis.call('ZADD', IDS, now_ms + FAR, id)
  redis.call('XADD', STREAM[class], '*', 'id', id, 'agent', agent)
  return 'submitted'
end

-- steps: name -> state, dependencies left, index, agent, successors, attempt, fence, started, finished, tokens
local function read_step(steps_key, name)
  local packed = redis.call('HGET', steps_key, name)
  if not packed then return nil end
  local f = split(packed, FS)
  return { state = f[1], left = tonumber(f[2]), index = f[3], agent = f[4], successors = f[5], attempt = f[6],
    fence = f[7], started = f[8], finished = f[9], tokens = f[10] }
end

local function write_step(steps_key, name, s)
  redis.call('HSET', steps_key, name, table.concat({ s.state, int(s.left), s.index, s.agent, s.successors, s.attempt,
    s.fence, s.started, s.finished, s.tokens }, FS))
end

-- The state that people see, where the record is still there.
local function set_state(kind, record, name, state)
  if kind == 's' then
    local step = read_step(record, name)
    if step then
      step.state = state
      write_step(record, name, step)
    end
  elseif redis.call('EXISTS', record) == 1 then
    redis.call('HSET', record, 'state', state)
  end
end

-- What a run's parked step is called; in the order of the plan within a run.
local function parked_name(run_id, name, index) return run_id .. '/' .. string.format('%06d', tonumber(index)) .. '/' .. name end

-- Puts ready steps on the stream, as many as the run may have at once; the others are parked. Parked ones go first.
-- `ready`: list of {name, step}. Returns how many of the run's steps are now on the stream.
local function pump(run_key, steps_key, run_id, ready)
  local run = redis.call('HMGET', run_key, 'active', 'parallel', 'class', 'parked')
  local active, parallel, class = tonumber(run[1]), tonumber(run[2]), run[3]
  local parked = tonumber(run[4])
  local function enqueue(name, step)
    step.state = 'waiting'
    write_step(steps_key, name, step)
    redis.call('XADD', STREAM[class], '*', 'id', run_id .. '/' .. name, 'agent', step.agent)
    active = active + 1
  end
  if parked > 0 and active < parallel then
    local members = redis.call('ZRANGEBYLEX', PARKED, '[' .. run_id .. '/', '(' .. run_id .. '0', 'LIMIT', 0,
      parallel - active)
    for _, member in ipairs(members) do
      local name = string.sub(member, #run_id + 9)      -- run id, /, six digits, /
      redis.call('ZREM', PARKED, member)
      parked = parked - 1
      enqueue(name, read_step(steps_key, name))
    end
  end
  table.sort(ready, function(a, b) return tonumber(a[2].index) < tonumber(b[2].index) end)
  for _, item in ipairs(ready) do
    local name, step = item[1], item[2]
    if active < parallel then
      enqueue(name, step)
    else
      step.state = 'parked'
      write_step(steps_key, name, step)
      redis.call('ZADD', PARKED, 0, parked_name(run_id, name, step.index))
      parked = parked + 1
    end
  end
  redis.call('HSET', run_key, 'active', int(active), 'parked', int(parked))
  return active
end

-- submitted | exists | conflict for a run without its steps. State `creating` until start_run.
local function add_run(run_key, task_key, id, class, payload, def, mode, parallel, reply, inputs, values)
  if redis.call('EXISTS', task_key) == 1 then return 'conflict' end
  local state = redis.call('HGET', run_key, 'state')
  if state then
    if state == 'creating' or state == 'running' then subscribe(run_key, reply) end
    return state == 'creating' and 'creating' or 'exists'
  end
  redis.call('HSET', run_key, 'state', 'creating', 'class', class, 'payload', payload, 'def', def, 'mode', mode,
    'parallel', parallel, 'submitted', int(now_ms), 'inputs', inputs, 'active', '0', 'parked', '0', 'steps', '0',
    'completed', '0', 'failed', '0', 'ends', '0')
  for name, value in pairs(values) do redis.call('HSET', run_key, 'input:' .. name, value) end
  subscribe(run_key, reply)
  redis.call('HINCRBY', META, 'ref:' .. def, 1)
  redis.call('ZADD', IDS, now_ms + FAR, id)
  return 'submitted'
end

-- A step that depends on nothing is parked until the run starts.
local function add_step(run_key, steps_key, run_id, name, agent, index, left, successors)
  if redis.call('HEXISTS', steps_key, name) == 1 then return end
  if left == 0 then
    redis.call('ZADD', PARKED, 0, parked_name(run_id, name, index))
    redis.call('HINCRBY', run_key, 'parked', 1)
  end
  write_step(steps_key, name, { state = left == 0 and 'parked' or 'waiting', left = left, index = index, agent = agent,
    successors = successors == '' and NONE or successors, attempt = '0', fence = '0', started = '0', finished = '0',
    tokens = '0' })
end

-- creating -> running, once all steps are written.
local function start_run(run_key, steps_key, run_events, id)
  redis.call('HSET', run_key, 'state', 'running', 'steps', redis.call('HLEN', steps_key))
  pump(run_key, steps_key, id, {})
  event('mission_state_changed', '"mission_id":' .. quote(id) .. ',' .. state_change('creating', 'running', ''), nil,
    run_events)
end

-- ---------------------------------------------------------------- runs

-- A step has ended. Enqueues what it made ready, and ends the run when nothing of it is left to do: steps behind a
-- failed one are never reached, so nothing needs to visit them.
local function advance(k, run_id, name, step, outcome, tokens, ttl)
  redis.call('HINCRBY', k.run, 'active', -1)
  redis.call('HINCRBY', k.run, 'tokens', tokens)
  local ready = {}
  if outcome == 'completed' then
    redis.call('HINCRBY', k.run, 'completed', 1)
    if step.successors == NONE then
      redis.call('HINCRBY', k.run, 'ends', 1)
    else
      for _, successor in ipairs(split(step.successors, LS)) do
        local s = read_step(k.steps, successor)
        s.left = s.left - 1
        if s.left == 0 then ready[#ready + 1] = { successor, s } else write_step(k.steps, successor, s) end
      end
    end
  else
    redis.call('HINCRBY', k.run, 'failed', 1)
  end
  if pump(k.run, k.steps, run_id, ready) > 0 then return end

  local run = redis.call('HMGET', k.run, 'failed', 'ends', 'def', 'reply')
  local state = run[1] == '0' and 'completed' or (run[2] ~= '0' and 'partial' or 'failed')
  redis.call('HSET', k.run, 'state', state, 'finished', int(now_ms))
  for _, key in ipairs({ k.run, k.steps, k.results }) do redis.call('PEXPIRE', key, ttl) end
  redis.call('ZADD', IDS, now_ms + ttl, run_id)
  redis.call('XADD', RESULTS, 'MAXLEN', '~', 100000, '*', 'kind', 'run', 'id', run_id, 'state', state)
  event('mission_state_changed', '"mission_id":' .. quote(run_id) .. ',' .. state_change('running', state, ''), nil,
    k.run_events)
  if redis.call('HINCRBY', META, 'ref:' .. run[3], -1) <= 0 then
    redis.call('HDEL', META, 'ref:' .. run[3])
    if redis.call('HGET', META, 'def') ~= run[3] then redis.call('DEL', k.def) end
  end
  answer(run[4], run_id)
end

-- ---------------------------------------------------------------- claiming

-- UTF-8 without control characters.
local function is_text(s)
  if string.find(s, '%c') then return false end
  if not string.find(s, '[\128-\255]') then return true end
  s = string.gsub(s, '[\194-\223][\128-\191]', 'x')
  s = string.gsub(s, '[\224-\239][\128-\191][\128-\191]', 'x')
  s = string.gsub(s, '[\240-\244][\128-\191][\128-\191][\128-\191]', 'x')
  return not string.find(s, '[\128-\255]')
end

-- Off the stream, and onto the dead letters with all that it carries.
local function discard(reason, id, class, entry, fields)
  local raw = { 'class', class, 'entry', entry }
  for i = 1, #fields, 2 do
    raw[#raw + 1] = 'raw:' .. fields[i]
    raw[#raw + 1] = fields[i + 1]
  end
  bury(reason, id, raw)
  redis.call('XACK', STREAM[class], GROUP, entry)
  redis.call('XDEL', STREAM[class], entry)
  return false
end

local function take(taken, inc, class, entry, fields, previous)
  local id, agent, attempt
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'id' then id = value elseif name == 'agent' then agent = value
    elseif name == 'attempt' then attempt = string.find(value, '^%d+$') and tonumber(value) or 0 end
  end
  if not id or not agent or #id == 0 or #id > 512 or #agent == 0 or attempt == 0 or not is_text(id .. agent) then
    return discard('malformed entry: it needs the fields id and agent, both text', id or '', class, entry, fields)
  end
  local h = { inc = inc, fence = int(now_us), class = class, entry = entry, attempt = attempt or 1, started = '0',
    counted = false, agent = agent, said = '0' }
  local before = holder(id)
  if before and (before.entry ~= entry or before.class ~= class) then
    return discard('second entry of a task that is held under another', id, class, entry, fields)
  end
  if before then
    h.fence = int(math.max(tonumber(before.fence) + 1, now_us))
    h.attempt = before.attempt + (before.started ~= '0' and 1 or 0)   -- a start that came to nothing
    h.counted = before.counted
  end
  hold(id, h)
  for _, value in ipairs({ id, h.fence, int(h.attempt), agent, entry, class, previous and '1' or '0' }) do
    taken[#taken + 1] = value
  end
  return true
end

-- An entry that somebody deleted while it was held: forgets who held it.
local function forget_entry(class, entry)
  redis.call('XACK', STREAM[class], GROUP, entry)
  local all = redis.call('HGETALL', RUNNING)
  for i = 1, #all, 2 do
    local h = holder(all[i])
    if h.class == class and h.entry == entry then
      redis.call('HDEL', RUNNING, all[i])
      if h.counted and redis.call('HINCRBY', AGENTS, h.agent, -1) <= 0 then redis.call('HDEL', AGENTS, h.agent) end
    end
  end
end

-- Takes over what dead incarnations held, in one class. Returns how many were taken.
local function take_over(taken, inc, class, dead, room)
  local n = 0
  for _, gone in ipairs(dead) do
    while n < room do
      local pending = redis.call('XPENDING', STREAM[class], GROUP, '-', '+', room - n, gone)
      if #pending == 0 then break end
      for _, p in ipairs(pending) do
        local claimed = redis.call('XCLAIM', STREAM[class], GROUP, inc, 0, p[1])
        if claimed[1] and take(taken, inc, class, claimed[1][1], claimed[1][2], true) then
          n = n + 1
        elseif not claimed[1] then
          forget_entry(class, p[1])
        end
      end
    end
  end
  return n
end

local function read_new(taken, inc, class, room)
  local n = 0
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, inc, 'COUNT', room, 'STREAMS', STREAM[class], '>')
  if reply then
    for _, e in ipairs(reply[1][2]) do
      if take(taken, inc, class, e[1], e[2], false) then n = n + 1 end
    end
  end
  return n
end

-- The class, below CRITICAL, with the oldest entry that may be taken; and whose it was: nil for one that is new.
local function oldest(filled, dead)
  local best, whose, best_ms, best_seq
  local function consider(class, entry, gone)
    local ms, seq = string.match(entry, '(%d+)-(%d+)')
    ms, seq = tonumber(ms), tonumber(seq)
    if not best or ms < best_ms or (ms == best_ms and seq < best_seq) then
      best, whose, best_ms, best_seq = class, gone, ms, seq
    end
  end
  for _, class in ipairs(filled) do
    if class ~= '1' then
      for _, gone in ipairs(dead) do
        local pending = redis.call('XPENDING', STREAM[class], GROUP, '-', '+', 1, gone)
        if pending[1] then consider(class, pending[1][1], gone) end
      end
      local last = '0-0'
      for _, g in ipairs(redis.call('XINFO', 'GROUPS', STREAM[class])) do
        local name, delivered
        for i = 1, #g, 2 do
          if g[i] == 'name' then name = g[i + 1] elseif g[i] == 'last-delivered-id' then delivered = g[i + 1] end
        end
        if name == GROUP then last = delivered end
      end
      local head = redis.call('XRANGE', STREAM[class], '(' .. last, '+', 'COUNT', 1)
      if head[1] then consider(class, head[1][1], nil) end
    end
  end
  return best, whose
end

local function forget_if_empty(gone)
  for _, c in ipairs(CLASSES) do
    if #redis.call('XPENDING', STREAM[c], GROUP, '-', '+', 1, gone) > 0 then return false end
  end
  for _, c in ipairs(CLASSES) do redis.call('XGROUP', 'DELCONSUMER', STREAM[c], GROUP, gone) end
  redis.call('ZREM', LEASES, gone)
  return true
end

-- Renews the incarnation's lease and gives it at most `slots` entries.
-- {'ok', look again in ms, now in ms, {id, fence, attempt, agent, entry, class, taken over?, ...}} | {'fenced'}
local function claim(inc, seq, slots, lease_ms, may_take_over)
  if redis.call('SISMEMBER', FENCED, inc) == 1 then return { 'fenced' } end
  local last = redis.call('HGET', CLAIMS, inc)
  if not last and seq ~= '1' then return { 'fenced' } end     -- flushed, or forgotten: it must start anew
  -- Was it cut off itself? Then others may have been, and get the chance to renew first. The caller sees to that, too;
  -- but what it asked before an outage may be done only after it.
  local until_ms = redis.call('ZSCORE', LEASES, inc)
  if until_ms and tonumber(until_ms) - now_ms < lease_ms / 3 then may_take_over = false end
  redis.call('ZADD', LEASES, now_ms + lease_ms, inc)
  if last then
    local cut = string.find(last, FS, 1, true)
    local answered = tonumber(string.sub(last, 1, cut - 1))
    if tonumber(seq) == answered then return { 'ok', 0, int(now_ms), cmsgpack.unpack(string.sub(last, cut + 1)) } end
    if tonumber(seq) < answered then return { 'ok', 0, int(now_ms), {} } end   -- a late copy, which nobody waits for
  end

  local taken, room, more = {}, slots, false
  if room > 0 then
    local dead = redis.call('ZRANGEBYSCORE', LEASES, '-inf', may_take_over and now_ms or 0, 'LIMIT', 0, DEAD_AT_ONCE)
    more = #dead == DEAD_AT_ONCE
    for _, gone in ipairs(dead) do
      if gone ~= RETURNED and redis.call('SADD', FENCED, gone) == 1 then
        redis.call('EXPIRE', FENCED, DAY)
        redis.call('HDEL', CLAIMS, gone)
        redis.call('HDEL', WORKERS, gone)
      end
    end
    local filled = {}
    for _, c in ipairs(CLASSES) do
      if redis.call('XLEN', STREAM[c]) > 0 then filled[#filled + 1] = c end
    end
    -- One pick in 16 goes to the oldest head, so that no class starves.
    local picks = #filled > 1 and tonumber(redis.call('HGET', META, 'picks') or '0') or 0
    if #filled > 1 and picks + room >= 16 then
      local class, whose = oldest(filled, dead)
      if class and whose then
        room = room - take_over(taken, inc, class, { whose }, 1)
      elseif class then
        room = room - read_new(taken, inc, class, 1)
      end
    end
    for _, c in ipairs(CLASSES) do      -- not only `filled`: what a dead worker holds may have been deleted
      if room > 0 and #dead > 0 then room = room - take_over(taken, inc, c, dead, room) end
      if room > 0 and redis.call('XLEN', STREAM[c]) > 0 then room = room - read_new(taken, inc, c, room) end
    end
    if #filled > 1 then redis.call('HSET', META, 'picks', (picks + slots - room) % 16) end
    for _, gone in ipairs(dead) do
      if not forget_if_empty(gone) then more = true end
    end
    if more or queued() > redis.call('HLEN', RUNNING) then ring() end
  end
  redis.call('HSET', CLAIMS, inc, seq .. FS .. cmsgpack.pack(taken))

  local again = 2000
  local others = redis.call('ZRANGEBYSCORE', LEASES, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #others, 2 do
    if others[i] ~= inc then again = math.min(again, math.max(tonumber(others[i + 1]) - now_ms + 1, may_take_over and 50 or 500)) end
  end
  return { 'ok', again, int(now_ms), taken }
end

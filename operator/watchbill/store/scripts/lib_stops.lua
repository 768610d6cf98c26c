-- How somebody stops tasks and steps: cancels them, or interrupts them until they are resumed.
-- uses holders answers outbox streams steps runs ends states results limits releases wake

local asked = {}                -- ids whose workers are to hear of it

-- Takes it off its stream, or from beside them. `found`: its state, class, agent, attempt and entry. Returns whether
-- that was done, whether it counted among its run's active steps, and when it was due (UNPLACED: when it has a place).
local function withdraw(item, h, found)
  local step, state, class, entry = item.step, found.state, found.class, found.entry
  local member = pack_member(item.id, class, found.agent, int(tonumber(found.attempt) + 1))
  if h then
    release(item.id, h)
  elseif state == 'delayed' or state == 'approval' then
    local due = redis.call('ZSCORE', DELAYED, member)
    return redis.call('ZREM', DELAYED, member) == 1, true, due
  elseif state == 'parked' then
    if redis.call('ZREM', PARKED_AGENT, member) == 1 then return true, true end
    local bound = step and runs().bound_name(item.run_id, item.name, step.index)
    if not bound or redis.call('ZREM', PARKED, bound) == 0 then return false, true end
    redis.call('HINCRBY', item.run, 'parked', -1)
    return true, false, UNPLACED
  elseif state == 'interrupted' then
    count_placed(item, redis.call('ZSCORE', PARKED_INTERRUPT, item.id))
    return redis.call('ZREM', PARKED_INTERRUPT, item.id) == 1, true
  elseif step and (step.left > 0 or state == 'waiting' and entry == '') then
    return true, false      -- it waits for other steps, or became ready after its run was cancelled
  elseif entry and entry ~= '' then
    local there = redis.call('XRANGE', STREAM[class], entry, entry)[1]
    for i = 1, there and #there[2] or 0, 2 do
      if there[2][i] == 'id' and there[2][i + 1] == item.id then
        return redis.call('XDEL', STREAM[class], entry) == 1, true
      end
    end
    return false, true
  else
    return false, true
  end
  return true, true
end

-- Whether it has a worker, which may be dead: it was not handed back, and doesn't wait for the limits of its agent.
local function has_worker(h) return h and h.inc ~= RETURNED and not is_limited(h.inc) end

-- Whether nobody can be at work on it though it has a worker: the lease of that is over, or there is none.
local function is_left(h)
  if not has_worker(h) then return false end
  local until_ms = redis.call('ZSCORE', LEASES, h.inc)
  return not until_ms or tonumber(until_ms) <= now_ms
end

-- The record of a task or step: state (nil: there is none), agent, class, attempt, entry, spent, run_state. Sets the
-- item's step and reply.
local function find(item)
  if item.run_id then
    local run = redis.call('HMGET', item.run, 'class', 'state')
    local step = run[1] and read_step(item.steps, item.name)
    if not step then return {} end
    item.step = step
    return { state = step.state, agent = step.agent, class = run[1], attempt = step.attempt, entry = step.entry,
      spent = step.spent, run_state = run[2] }
  end
  local task = redis.call('HMGET', item.task, 'state', 'agent', 'class', 'attempt', 'entry', 'reply', 'spent',
    'deliver', 'role')
  item.reply, item.deliver, item.role = task[6], task[8], task[9]
  return { state = task[1], agent = task[2], class = task[3], attempt = task[4] or '0', entry = task[5],
    spent = task[7] or '' }
end

-- Why it can't be stopped, or needn't be; nil: it can. (See stop.lua.)
local function refusal(what, item, h, found)
  local state, run_state = found.state, found.run_state
  if not state then return 'missing' end
  if ENDED[state] or run_state and run_state ~= 'running' and run_state ~= 'cancelling' then
    return what == 'cancel' and state == 'cancelled' and 'repeated' or 'over:' .. (ENDED[state] and state or run_state)
  end
  if what == 'interrupt' and state == 'interrupted' then return 'repeated' end
  if what == 'interrupt' and h and wish_of(item.id) == 'cancel' then return 'over:cancelling' end
end

-- Stops a task or step; `ttl`: for how long its record is kept once it has ended, in ms. Returns what stop.lua says
-- of it.
local function stop(what, why, ttl, item)
  local found, h = find(item), holder(item.id)
  local refused = refusal(what, item, h, found)
  if refused then return refused end
  local step, left = item.step, is_left(h)
  if has_worker(h) then asked[#asked + 1] = item.id end      -- one that is taken for dead may be alive
  if has_worker(h) and not left then
    redis.call('HSET', WISHES, item.id, what .. ' ' .. ttl .. ' ' .. why)
    if what == 'cancel' then set_state(item, 'cancelling') end
    return 'asked'
  elseif what == 'interrupt' and step and found.run_state == 'cancelling' then
    return 'over:cancelling'
  elseif what == 'interrupt' and step and step.left > 0 and found.state == 'waiting' then
    return 'unready'
  end
  local started = left and h.started or '0'
  -- What hadn't begun didn't count.
  if h then found.attempt = int(tonumber(h.attempt) - (started == '0' and 1 or 0)) end
  if left and h.known ~= '0' then count(h.agent, -1, item.agent_events) end
  local done, active, due = withdraw(item, h, found)
  if h and wish_of(item.id) then redis.call('HDEL', WISHES, item.id) end
  if what == 'interrupt' and not done then return 'busy' end
  -- Its end counts it off; what was set aside counts as if it were on its stream.
  if not active then redis.call('HINCRBY', item.run, 'active', 1) end
  local last, fence = { agent = found.agent, attempt = found.attempt, started = started }, int(now_us)
  if what == 'cancel' then
    -- Where it wasn't found it was due, and is on a stream by now: whoever takes it there is told that it has ended.
    local result, message = cancelled_result(item, last, why, found.spent)
    item.is_there = true
    conclude(item, last, { fence = fence, outcome = 'cancelled', result = result, message = message,
      spent = found.spent, ttl = ttl })
    return 'cancelled'
  end
  if due == UNPLACED then redis.call('HINCRBY', item.run, 'unplaced', 1) end
  set_aside(item, { agent = found.agent, attempt = found.attempt, fence = fence, why = why, spent = found.spent,
    due = due or 0 })
  return 'interrupted'
end

-- Every script that stops ends with this.
local function settle_stops(crew, channel, what, ttl)
  local ended, enqueued = index_ended()
  if ended > 0 then trim_results(tonumber(ttl)) end
  settle()
  send_answers()
  if #asked > 0 then redis.call('PUBLISH', channel, what .. FS .. table.concat(asked, FS)) end
  local is_work = enqueued and queued() > redis.call('HLEN', HOLDERS)
  if is_work then ring() end
  if is_work or is_posted then wake(crew) end     -- there may be no worker to deliver it
end

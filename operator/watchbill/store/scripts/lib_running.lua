-- Who runs what, and which agents work.
-- uses events

-- running: id -> incarnation, fence, class, entry, attempt, when it was started (ms; 0: claimed, not started), what is
-- known of that (0: nothing, 1: counted in `agents`, 2: and told), agent, number of the last thing it said
local HELD = '^([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)$'

local function holder_of(packed)
  if not packed then return nil end
  local inc, fence, class, entry, attempt, started, known, agent, said = string.match(packed, HELD)
  return { inc = inc, fence = fence, class = class, entry = entry, attempt = attempt, started = started, known = known,
    agent = agent, said = said }
end

local function holder(id) return holder_of(redis.call('HGET', RUNNING, id)) end

local function packed_holder(inc, fence, class, entry, attempt, started, known, agent, said)
  return inc .. FS .. fence .. FS .. class .. FS .. entry .. FS .. attempt .. FS .. started .. FS .. known .. FS .. agent
      .. FS .. said
end

-- A packed value as it is once its task has begun, and the agent, if it must be counted; nil: it isn't held so, or has begun.
-- Takes apart no more than it needs, because every task that waits its turn comes by here.
local function packed_as_begun(packed, inc, fence)
  if not packed or string.find(packed, inc .. FS .. fence .. FS, 1, true) ~= 1 then return nil end
  local head, known, agent, said = string.match(packed, '^(.*)\0310\031([012])\031([^\031]*)\031(%d+)$')
  if not head then return nil end
  local begun = head .. FS .. now .. FS .. (known == '0' and '1' or known) .. FS .. agent .. FS .. said
  return begun, known == '0' and agent
end

local function hold(id, h)
  redis.call('HSET', RUNNING, id,
    packed_holder(h.inc, h.fence, h.class, h.entry, h.attempt, h.started, h.known, h.agent, h.said))
end

local function holds(h, inc, fence) return h and h.inc == inc and h.fence == fence end

-- Why somebody wants this task to stop (cancel | interrupt), for how long its record is kept then, in ms, and what they
-- said of it; nil: nobody does.
local wished = redis.call('EXISTS', WISHES) == 1
local function wish_of(id)
  local wish = wished and redis.call('HGET', WISHES, id)
  if wish then return string.match(wish, '^(%a+) (%d+) (.*)$') end
end

local function release(id, h)
  redis.call('XACK', STREAM[h.class], GROUP, h.entry)
  redis.call('XDEL', STREAM[h.class], h.entry)
  redis.call('HDEL', RUNNING, id)
end

-- An entry of what has ended, which nobody could find when it did.
local function drop_stray(id, h)
  release(id, h)
  if wish_of(id) then redis.call('HDEL', WISHES, id) end
end

-- To a consumer that everyone may take from, so that it keeps its place in the stream.
local function give_back(id, h)
  if not redis.call('XCLAIM', STREAM[h.class], GROUP, RETURNED, 0, h.entry, 'JUSTID')[1] then
    return drop_stray(id, h)      -- somebody deleted its entry
  end
  h.inc, h.started, h.known = RETURNED, '0', '0'
  hold(id, h)
  redis.call('ZADD', LEASES, 0, RETURNED)
  ring()
end

-- agents: how many tasks each runs. Changes are summed up over a call, so that an agent that goes from one task to the
-- next is not told to be idle between them. meta's `working:` fields: of which agents it is told that they work.
local movers, moved, feeds = {}, {}, {}
local function count(agent, n, feed)
  local so_far = moved[agent]
  if not so_far then
    movers[#movers + 1] = agent
    so_far = 0
  end
  moved[agent] = so_far + n
  if feed then feeds[agent] = feed end
end

local known_to_work = {}
local function working(agent, feed)
  if known_to_work[agent] then return end
  known_to_work[agent] = true
  if redis.call('HSETNX', META, 'working:' .. agent, '1') == 1 then
    event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('idle', 'working', ''), feed)
  end
end

-- Ends every script that counts.
local function settle()
  for _, agent in ipairs(movers) do
    local n, feed, runs = moved[agent], feeds[agent], nil     -- runs nil: as before
    if n ~= 0 then
      runs = redis.call('HINCRBY', AGENTS, agent, n)
    elseif known_to_work[agent] then
      runs = tonumber(redis.call('HGET', AGENTS, agent) or '0')
    end
    if runs and runs <= 0 then
      redis.call('HDEL', AGENTS, agent)
      if redis.call('HDEL', META, 'working:' .. agent) == 1 and feed then
        event('agent_state_changed', '"agent_id":' .. quote(agent) .. ',' .. state_change('working', 'idle', ''), feed)
      end
    end
  end
end

-- Tells that a task begins, the first time. Whether this was the first. `brief`: it has ended, too, so it isn't told that
-- its agent works.
local function assigned(id, h, run_id, feed, run_events, brief)
  if h.started == '0' then h.started = now end
  if h.known == '2' then return false end
  if h.known == '0' then count(h.agent, 1, feed) end
  if not brief then working(h.agent, feed) end
  h.known = '2'
  event('task_assigned', about(h.agent, id, run_id, h.attempt ~= '1' and 'attempt ' .. h.attempt or ''), feed, run_events)
  return true
end

-- Dead letters of a crew, how long they are kept, and bytes of a task that one carries.
local LETTERS_MOST, LETTERS_DAYS, LETTER_MOST = 10000, 7, 65536

local function bury(reason, id, fields)
  local entry = { 'reason', reason, 'id', id }
  for i = 1, math.min(#fields, 4000) do entry[#entry + 1] = fields[i] end
  redis.call('XADD', DEAD, '*', unpack(entry))
  local trimmed = redis.call('XTRIM', DEAD, 'MAXLEN', LETTERS_MOST)
    + redis.call('XTRIM', DEAD, 'MINID', int(now_ms - LETTERS_DAYS * DAY * 1000))
  if trimmed > 0 then redis.call('HINCRBY', META, 'trimmed', trimmed) end
  redis.call('EXPIRE', DEAD, LETTERS_DAYS * DAY)
end

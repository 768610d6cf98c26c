-- What all queue scripts share: keys, clock, bell; put in front of each of them when they are loaded, followed by the
-- parts (lib_*.lua) that the script's second line names. Making a function costs 0.2 µs at each call: hence parts.
--
-- Rules (docs/design/queue.md): safe to send twice; check first, then write; only keys that the caller declared;
-- the server's clock only; JSON is written here, never read.

local META, HOLDERS, LEASES, FENCED, CLAIMS, BELL, DEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local EVENTS, AGENTS, IDS, RESULTS, WORKERS = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local PARKED, PARKED_AGENT = KEYS[13], KEYS[14]
local STREAM = { ['1'] = KEYS[15], ['3'] = KEYS[16], ['5'] = KEYS[17], ['7'] = KEYS[18], ['9'] = KEYS[19] }
local CLASSES = { '1', '3', '5', '7', '9' }
local DELAYED, PARKED_INTERRUPT, WISHES, OUTBOX = KEYS[20], KEYS[21], KEYS[22], KEYS[23]
local FIXED = 23
local GROUP = 'workers'
local RETURNED = 'returned'     -- consumer that holds what was handed back; it is always "dead", so anyone may take it
local LIMITED = 'limited:'      -- and an agent: consumer of its tasks that wait for the agent's limits (lib_limits.lua)
local FS, LS = '\31', '\30'     -- separators of packed values and of lists in them; names are printable
local DAY = 86400
local ALONG = 4096              -- bytes of a payload that travels with its entry, and of a result with its message
local FAR = 1e13                -- ms; added to the score of an unfinished task in `ids`, so that it never looks expired

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

local function int(n) return string.format('%.0f', n) end

local now = int(now_ms)

local function split(text, separator)
  local parts = {}
  for part in string.gmatch(text, '([^' .. separator .. ']+)') do parts[#parts + 1] = part end
  return parts
end

-- The role that stands in place of an agent (ROLE in Python's names); nil: it is an agent.
local function role_of(agent) return string.match(agent, '^role:(.*)$') end

-- Whether this is a crew's delivery queue, and not its queue of tasks.
local function is_of_deliveries() return string.find(HOLDERS, ':delivery:holders', 1, true) ~= nil end

-- The limits of the crew's agents, and what lib_limits.lua makes of them; nil: it has none, or this is its delivery
-- queue.
local limits, limiting_made

-- What meta says of limits holds from now on.
local function heed(text)
  limits = text and not is_of_deliveries() and text or nil
  limiting_made = nil
end

-- Whether the crew is not there, or not the one that the caller means. Its agents' limits are read with that.
local function is_gone(uid)
  local known = redis.call('HMGET', META, 'uid', 'limits')
  heed(known[2])
  return known[1] ~= uid
end

-- Why this incarnation may not write, or nil: gone | fenced | unknown (it has claimed before, the caller says, and
-- the store doesn't know: it lost what it had). Its last claim is read with that.
local last_claim
local function barred(uid, inc, is_new)
  if is_gone(uid) then return 'gone' end
  last_claim = redis.call('HGET', CLAIMS, inc)
  if last_claim then return nil end
  if redis.call('ZSCORE', FENCED, inc) then return 'fenced' end
  if not is_new then return 'unknown' end
end

-- Class -> entries on its stream, and how many on all. Most crews use the class NORMAL only, so one call finds out
-- about all the others.
local function lengths()
  local of_class, all = {}, 0
  local usual = redis.call('EXISTS', STREAM['1'], STREAM['3'], STREAM['7'], STREAM['9']) == 0
  for _, c in ipairs(CLASSES) do
    of_class[c] = usual and c ~= '5' and 0 or redis.call('XLEN', STREAM[c])
    all = all + of_class[c]
  end
  return of_class, all
end

local function queued()
  local _, all = lengths()
  return all
end

local function ring()
  if redis.call('LLEN', BELL) == 0 then redis.call('RPUSH', BELL, '1') end
end

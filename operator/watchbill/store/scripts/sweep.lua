#!lua flags=no-writes,allow-cross-slot-keys
-- uses limits counts figures workers
-- How many crews stand that this node has, each as of one moment. The one script that declares no keys, because they
-- are in many slots: it only reads, and answers '' of a crew whose keys have moved.
-- ARGV
--   1 n                   crews that are read whole; the other ones are read in brief
--   2 ...                 names of fixed keys behind the root of a crew: of its queue, of its delivery queue; and roots
-- Answers, for each
--   ''                    it can't be told here
--   {'brief', entries on its queues, when delayed ones of each are due, in ms, where there are some}
--   {'whole', identity, figures, figures of deliveries, workers, workers of deliveries}
--                         as figures.lua and workers.lua answer
--   identity              uid, owner, uid of one that leaves, definition, the one that was loaded, generation,
--     since when it is suspended
local n = tonumber(ARGV[1])
local first = 2 + 2 * FIXED
local names = {}
for i = 1, 2 * FIXED do
  names[i] = ARGV[i + 1]
end

-- Has the names of streams and delayed work mean those of this queue of the crew, whose names are behind `from`.
local function turn_to_tasks(root, from)
  DELAYED, STREAM = root .. names[from + 20], {}
  for i, class in ipairs(CLASSES) do STREAM[class] = root .. names[from + 14 + i] end
end

-- The same for all names that figures and workers need.
local function turn_to(root, from)
  turn_to_tasks(root, from)
  META, HOLDERS, LEASES = root .. names[from + 1], root .. names[from + 2], root .. names[from + 3]
  DEAD, RESULTS, WORKERS = root .. names[from + 7], root .. names[from + 11], root .. names[from + 12]
  PARKED, PARKED_AGENT = root .. names[from + 13], root .. names[from + 14]
  PARKED_INTERRUPT, OUTBOX = root .. names[from + 21], root .. names[from + 23]
end

local function due() return redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2] end

local function brief(root)
  local meta = redis.call('HMGET', root .. names[1], 'uid', 'delivers')
  if not meta[1] then return { 'brief', 0 } end
  turn_to_tasks(root, 0)
  local answer = { 'brief', queued(), due() }
  if meta[2] then
    answer[2] = answer[2] + redis.call('XLEN', root .. names[23])
    turn_to_tasks(root, FIXED)
    answer[2] = answer[2] + queued()
    answer[#answer + 1] = due()
  end
  return answer
end

local function whole(root)
  turn_to(root, 0)
  local identity = redis.call('HMGET', META, 'uid', 'owner', 'leaving', 'def', 'loaded', 'generation', 'suspended')
  local figures, workers = figures_of(0, ''), workers_of()
  turn_to(root, FIXED)
  local delivers = #figures > 0 and #figures[#figures] > 0
  return { 'whole', identity, figures, delivers and figures_of(0, '') or {}, workers, workers_of() }
end

local answers = {}
for i = first, #ARGV do
  local root = ARGV[i]
  local done, answer = pcall(i < first + n and whole or brief, root)
  answers[#answers + 1] = done and answer or ''
end
return answers

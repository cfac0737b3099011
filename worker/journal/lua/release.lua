-- release(sid, step, fence) -> 1 | 0 (the lease was lost)
-- Nobody wants the step any more.
local sid, step = ARGV[1], ARGV[2]
if not holds(sid, step, ARGV[3]) then return 0 end
take_back(sid, step)
if is_open(sid) then drive_if_below(sid, 1) end
return 1
